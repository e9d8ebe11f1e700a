"""A classifier as a subject: its logits, features, feature maps and layers."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.detectors.subjects.maps import block_names, feature_maps, layers_view
from oodattack.detectors.subjects.subject import NO_LAYERS, Subject, present
from oodattack.detectors.subjects.view import View
from oodattack.encoders import Encoder
from oodattack.encoders.layers import INPUT_OF, OUTPUT, find_head, record
from oodattack.engines import compute_images
from oodattack.images.labels import Labels


class Classifier(Subject):
    """A network whose output is the output of its last linear layer.

    Args:
        encoder: the network.
        layers: names of the layers for detectors that read several; by default the last at each resolution.

    Attributes:
        classes: number of logits.
        head: a copy of the last linear layer.
        features: view of the head's input, (B, D).
        logits: view of the head's output, (B, C).
        maps: view of the activations (B, D, h, w) whose spatial mean is the features.
        layers: view of several layers (B, C_i, h_i, w_i) and, last, the logits.
        blocks: the same for every block; if layers are given, these.

    Raises:
        InputError: if the network has no linear head, or further operations follow it.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> c = Classifier(Encoder(net, name="mine", input_size=(8, 8)))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> [tuple(view(x).shape) for view in (c.features, c.logits, c.maps)], c.layer_names
    ([(2, 4), (2, 5), (2, 4, 6, 6)], ('1',))
    """

    kind = "classifier"
    labels_without = "the network's own predictions"
    classes: int

    def __init__(self, encoder: Encoder, *, layers: Sequence[str] | None = None) -> None:
        noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
        with torch.no_grad():
            x = encoder.normalise(noise)
            name = find_head(encoder.model, x)
            if name is None:
                raise InputError(f"expected a classifier with a linear head, got {encoder.name} without one")
            output, features = record(encoder.model, [INPUT_OF + name], x)
            self._head = _linear(encoder.model.get_submodule(name))
            if output.ndim != 2 or not torch.allclose(self._head(features), output, rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"expected a classifier whose output is that of its last linear layer {name!r}, got {encoder.name},"
                    " which does more; remove its softmax, or use layer=output to audit it as a bare encoder"
                )
            seen = feature_maps(encoder.model, x)
        self.classes = output.shape[1]
        pooled = [layer for layer, value in seen.items() if _is_pooled_to(value, features)]
        self._logits = View(encoder, [OUTPUT], [output.shape[1:]], name="logits")
        self._maps = View(encoder, pooled[-1:], [seen[pooled[-1]].shape[1:]]) if pooled else None
        # For shapes alone; a view copies the network, so this one is made when it is needed.
        empty = {layer: value.new_empty((0, *value.shape[1:])) for layer, value in seen.items()}
        blocks = block_names(encoder.model, seen) if layers is None else layers
        self._make_blocks = cache(lambda: layers_view(encoder, empty, output.shape[1:], blocks)[0])
        super().__init__(
            encoder,
            View(encoder, [INPUT_OF + name], [features.shape[1:]], name="features"),
            *layers_view(encoder, seen, output.shape[1:], layers),
        )

    @property
    def logits(self) -> View:
        """See `Subject`."""
        return self._logits

    @property
    def head(self) -> nn.Linear:
        """See `Subject`."""
        return self._head

    @property
    def maps(self) -> View:
        """See `Subject`."""
        return present(self._maps, "the network has no feature maps whose mean is z")

    @property
    def blocks(self) -> View:
        """See `Subject`."""
        return present(self._make_blocks(), NO_LAYERS)

    def shared(self) -> Mapping[str, View]:
        """See `Subject`."""
        return {"features": self.features, "logits": self.logits}

    def class_order(self, labels: Labels) -> Sequence[str] | None:
        """The network's own order if it knows these class names; else their order, if the number of classes agrees."""
        known = self.encoder.classes
        if known is not None and set(labels.classes or labels.names) <= set(known):
            return known
        order = labels.classes or [str(number) for number in range(self.classes)]
        return order if len(order) == self.classes and set(labels.names) <= set(order) else None

    def guess(self, images: Tensor) -> Tensor:
        """The classes that the network predicts."""
        with torch.no_grad():
            return compute_images(lambda part: self.logits(part).argmax(1), images).cpu()


def _linear(module: nn.Module) -> nn.Linear:
    """A copy of the head as a plain `nn.Linear`, whatever its class."""
    weight = module.weight
    bias = getattr(module, "bias", None)
    if not isinstance(weight, Tensor):
        raise InputError(f"expected a head with a weight, got {type(module).__name__}")
    # Detectors may use a bias; a head without one gets a bias of zeros.
    head = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias if isinstance(bias, Tensor) else torch.zeros_like(head.bias))
    return head.requires_grad_(False).eval()


def _is_pooled_to(maps: Tensor, features: Tensor) -> bool:
    """Whether the features are the spatial mean of the maps."""
    if maps.shape[1] != features[0].numel() or features.ndim != 2:
        return False
    return torch.allclose(maps.mean((2, 3)), features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))
