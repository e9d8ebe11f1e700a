"""Parts of a network that others take the place of."""

from collections.abc import Callable

from torch import nn


def swap(model: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put ``other(part)`` in the place of each part of a model; where that is None, the part stays.

    Args:
        model: changed in place; it itself is not asked about. What takes a part's place is, with its own parts.
        other: what is to take a part's place.

    >>> net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Flatten()))
    >>> swap(net, lambda part: nn.Tanh() if isinstance(part, nn.ReLU) else None)
    >>> [type(part).__name__ for part in net.modules()]
    ['Sequential', 'Tanh', 'Sequential', 'Tanh', 'Flatten']
    """
    for parent in model.modules():
        for name, part in parent.named_children():
            new = other(part)
            if new is not None:
                setattr(parent, name, new)
