"""A classifier as detectors see it: logits, features, feature maps and layers of images."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.padding import _ConstantPadNd

from oodattack.core.errors import InputError
from oodattack.detectors.detector import Loader
from oodattack.encoders import Encoder
from oodattack.encoders.layers import INPUT_OF, OUTPUT, find_head, hookable, record
from oodattack.speed import prepare


class View:
    """Some values of a network, as a differentiable function of images: (B, 3, H, W) to (B, ...).

    With a gradient it is computed by a copy prepared for speed, without one by the model as it was loaded: attacks are
    fast, and every figure is the original's.

    Args:
        encoder: the network.
        layers: what to read, names as in `oodattack.encoders.layers`.
        shapes: of each, without the batch.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[str], shapes: Sequence[torch.Size]) -> None:
        self.shapes = tuple(shapes)
        self.exact = Encoder(
            encoder.model,
            name=encoder.name,
            input_size=encoder.input_size,
            layer="+".join(layers),
            mean=encoder.mean.flatten().tolist(),
            std=encoder.std.flatten().tolist(),
        )
        self.exact.to(encoder.mean.device).eval()
        # In 32 bits, for what is faster is measured, and an audit that was stopped must go on in the same precision.
        self.fast = prepare(self.exact, half=False, rough=False)
        self._last: tuple[Tensor, int, Tensor] | None = None

    def flat(self, images: Tensor) -> Tensor:
        """All values in one row: (B, K)."""
        if torch.is_grad_enabled() and images.requires_grad:
            z: Tensor = self.fast(images)
            return z
        # Dozens of detectors are asked about the same images one after the other.
        version = images._version  # goes up when a tensor is changed in place
        if self._last is None or self._last[0] is not images or self._last[1] != version:
            with torch.no_grad():
                self._last = (images, version, self.exact(images))
        return self._last[2]

    def split(self, z: Tensor) -> list[Tensor]:
        """Rows (B, K) as the values they are made of."""
        parts = torch.split(z, [prod(shape) for shape in self.shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def parts(self, images: Tensor) -> list[Tensor]:
        """The value of each layer."""
        return self.split(self.flat(images))

    def __call__(self, images: Tensor) -> Tensor:
        """The value of the first layer."""
        return self.parts(images)[0]


class Classifier:
    """The parts of a classifier that out-of-distribution detectors read.

    Args:
        encoder: a network whose output is what its last linear layer gives.
        layers: names of the layers for detectors that read several; by default the last at each resolution.

    Attributes:
        encoder: the same.
        head: the last linear layer, on its own.
        classes: number of logits.
        features: view of what the head is given, (B, D).
        logits: view of what it gives, (B, C).
        maps: view of the activations (B, D, h, w) whose mean over space are the features; None where there are none.
        layers: view of several layers (B, C_i, h_i, w_i) and, last, the logits; None where there are none.
        layer_names: their names.

    Raises:
        InputError: if the network has no linear head, or does more after it.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> c = Classifier(Encoder(net, name="mine", input_size=(8, 8)))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> [tuple(view(x).shape) for view in (c.features, c.logits, c.maps)], c.layer_names
    ([(2, 4), (2, 5), (2, 4, 6, 6)], ('1',))
    """

    def __init__(self, encoder: Encoder, *, layers: Sequence[str] | None = None) -> None:
        self.encoder = encoder
        noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
        with torch.no_grad():
            x = encoder.normalise(noise)
            name = find_head(encoder.model, x)
            if name is None:
                raise InputError(f"expected a classifier with a linear head, got {encoder.name} without one")
            output, features = record(encoder.model, [INPUT_OF + name], x)
            module = encoder.model.get_submodule(name)
            self.head = _linear(module)
            if output.ndim != 2 or not torch.allclose(self.head(features), output, rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"expected a classifier whose output is that of its last linear layer {name!r}, got {encoder.name},"
                    " which does more; leave its softmax out"
                )
            seen = _feature_maps(encoder.model, x)
        self.classes = output.shape[1]
        self.features = View(encoder, [INPUT_OF + name], [features.shape[1:]])
        self.logits = View(encoder, [OUTPUT], [output.shape[1:]])
        pooled = [layer for layer, value in seen.items() if _is_pooled_to(value, features)]
        self.maps = View(encoder, pooled[-1:], [seen[pooled[-1]].shape[1:]]) if pooled else None
        if layers is None:
            layers = list({value.shape[2:]: layer for layer, value in seen.items()}.values())
        for layer in layers:
            if layer not in seen:
                raise InputError(f"expected layers with feature maps, got {layer!r}; there are {', '.join(seen)}")
        self.layer_names = tuple(layers)
        shapes = [seen[layer].shape[1:] for layer in layers]
        self.layers = View(encoder, [*layers, OUTPUT], [*shapes, output.shape[1:]]) if layers else None
        self._collected: WeakKeyDictionary[Any, dict[View, tuple[Tensor, Tensor]]] = WeakKeyDictionary()

    def collect(
        self, view: View, loader: Loader, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """A view of all images of a loader, (N, ...), and their classes (N,), on the CPU.

        One pass; the images are not kept. The result of a view that is not reduced is kept with the loader, for the
        next detector that reads it.

        Args:
            view: what to read.
            loader: in-distribution data.
            reduce: applied to each batch of flat rows (B, K), before they are kept.
        """
        kept = self._collected.setdefault(loader, {})
        if reduce is None and view in kept:
            return kept[view]
        values, labels = [], []
        device = self.encoder.mean.device
        with torch.no_grad():
            for images, y in loader:
                rows = view.flat(images.to(device))
                values.append((reduce(rows) if reduce else view.split(rows)[0]).cpu())
                labels.append(y.cpu())
        found = (torch.cat(values), torch.cat(labels))
        if reduce is None:
            kept[view] = found
        return found


def _linear(module: nn.Module) -> nn.Linear:
    """A copy of the head that is a plain linear layer, whatever class it is of."""
    weight = module.weight
    bias = getattr(module, "bias", None)
    if not isinstance(weight, Tensor):
        raise InputError(f"expected a head with a weight, got {type(module).__name__}")
    # The detectors that use a bias take one of zeros for none.
    head = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias if isinstance(bias, Tensor) else torch.zeros_like(head.bias))
    return head.requires_grad_(False).eval()


def _feature_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Every activation (B, C, h, w) with more than one pixel, by layer, in the order in which they are finished.

    Of the shape of the images: other networks hand on (B, h, w, C). A module that runs twice has no one value.
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
            if not isinstance(module, _ConstantPadNd):  # its sizes are no resolution of the network's own
                handles.append(module.register_forward_hook(watch(name)))
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    wide = x.shape[3] / x.shape[2]
    return {
        name: value
        for name, value in seen.items()
        if runs[name] == 1 and abs(value.shape[3] - wide * value.shape[2]) < 1
    }


def _is_pooled_to(maps: Tensor, features: Tensor) -> bool:
    """Whether features are the mean of the maps over space."""
    if maps.shape[1] != features[0].numel() or features.ndim != 2:
        return False
    return torch.allclose(maps.mean((2, 3)), features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))
