"""Layers with feature maps: those of a network, and those that detectors of several layers read."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Size, Tensor, nn
from torch.nn.modules.padding import _ConstantPadNd

from oodattack.core.errors import InputError
from oodattack.detectors.subjects.view import View
from oodattack.encoders import Encoder
from oodattack.encoders.layers import OUTPUT, hookable


def feature_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Every activation (B, C, h, w) with more than one pixel, by layer, in the order in which the layers finish.

    Activations with another aspect ratio than the images are omitted, because some networks use (B, h, w, C); so are
    modules that run twice, which have no single value.

    >>> import torch
    >>> list(feature_maps(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.rand(1, 3, 8, 8)))
    ['0']
    """
    seen: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            runs[name] += 1
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                seen.pop(name, None)
                seen[name] = output.clone()  # before a later layer changes it in place

        return hook

    try:
        for name, module in hookable(model).items():
            if not isinstance(module, _ConstantPadNd):  # padding would count as one more resolution
                handles.append(module.register_forward_hook(watch(name)))
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    aspect = x.shape[3] / x.shape[2]
    return {
        name: value
        for name, value in seen.items()
        if runs[name] == 1 and abs(value.shape[3] - aspect * value.shape[2]) < 1
    }


def block_names(model: nn.Module, maps: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The layers that consist of others, such as residual blocks, and the last at each resolution; equal ones once.

    >>> import torch
    >>> blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(2)]
    >>> net = nn.Sequential(*blocks, nn.AvgPool2d(2), nn.Flatten())
    >>> block_names(net, feature_maps(net, torch.rand(1, 3, 8, 8)))
    ('0', '1', '2')
    """
    last = {value.shape[2:]: name for name, value in maps.items()}
    found: dict[str, Tensor] = {}
    for name, value in maps.items():
        is_block = any(True for _ in model.get_submodule(name).children())
        if (is_block or name in last.values()) and not any(torch.equal(value, other) for other in found.values()):
            found[name] = value
    return tuple(found)


def layers_view(
    encoder: Encoder, maps: Mapping[str, Tensor], output: Size, chosen: Sequence[str] | None
) -> tuple[View | None, tuple[str, ...]]:
    """The view of several layers and, last, the network's output; and the names of the layers.

    Args:
        encoder: the network.
        maps: its feature maps, by layer.
        output: shape of the network's output, without the batch.
        chosen: names of the layers; None for the last at each resolution.

    Raises:
        InputError: if a chosen layer has no feature maps.
    """
    names = tuple({value.shape[2:]: name for name, value in maps.items()}.values()) if chosen is None else tuple(chosen)
    for name in names:
        if name not in maps:
            raise InputError(
                f"expected layers with feature maps, got {name!r}; this network has {', '.join(maps) or 'none'}"
            )
    if not names:
        return None, ()
    return View(encoder, [*names, OUTPUT], [*(maps[name].shape[1:] for name in names), output]), names
