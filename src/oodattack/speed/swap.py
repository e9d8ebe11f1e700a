"""Replace submodules of a network."""

from collections.abc import Callable

from torch import nn


def swap(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Replace each submodule by ``replacement(submodule)``, unless that is None.

    Args:
        model: modified in place; the model itself is never replaced. Replacements are visited in turn, as are their
            submodules.
        replacement: returns the module that replaces a given one, or None to keep it.

    >>> net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Flatten()))
    >>> swap(net, lambda part: nn.Tanh() if isinstance(part, nn.ReLU) else None)
    >>> [type(part).__name__ for part in net.modules()]
    ['Sequential', 'Tanh', 'Sequential', 'Tanh', 'Flatten']
    """
    for parent in model.modules():
        for name, part in parent.named_children():
            new = replacement(part)
            if new is not None:
                setattr(parent, name, new)
