"""Intermediate values of a network as a differentiable function of images."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from oodattack.detectors.subjects.passes import Passes, needs_gradient
from oodattack.encoders import Encoder
from oodattack.speed import prepare


class View:
    """Values of a network: a function from images (B, 3, H, W) in [0, 1] to (B, ...).

    If a gradient is needed, the values come from a copy of the network that is prepared for speed; otherwise from the
    network as it was loaded. Attacks are thus fast, and every reported figure is that of the original.

    Args:
        encoder: the network.
        layers: the layers to read; names as in `oodattack.encoders.layers`.
        shapes: the shape of each layer's value, without the batch. A single shape for several layers means that their
            values are concatenated.
        name: the name of the view in `Detector.reading`; None for a view that no two detectors share.
    """

    def __init__(
        self, encoder: Encoder, layers: Sequence[str], shapes: Sequence[torch.Size], *, name: str | None = None
    ) -> None:
        self.shapes, self.name = tuple(shapes), name
        self.exact = Encoder(
            encoder.model,
            name=encoder.name,
            input_size=encoder.input_size,
            layer="+".join(layers),
            mean=encoder.mean.flatten().tolist(),
            std=encoder.std.flatten().tolist(),
            pipeline=encoder.pipeline,
        )
        self.exact.to(encoder.mean.device).eval()
        # In 32 bits: which precision is faster is measured, and a resumed audit must use the same one.
        self.fast = prepare(self.exact, half=False, rough=False)
        self._passes = Passes[Tensor]()

    def flat(self, images: Tensor) -> Tensor:
        """All values in one row per image: (B, K)."""
        return self._passes(self._values, images)

    def _values(self, images: Tensor) -> Tensor:
        if needs_gradient(images):
            fast: Tensor = self.fast(images)
            return fast
        with torch.no_grad():
            exact: Tensor = self.exact(images)
        return exact

    def split(self, rows: Tensor) -> list[Tensor]:
        """Split rows (B, K) into the values of the layers."""
        parts = torch.split(rows, [prod(shape) for shape in self.shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def parts(self, images: Tensor) -> list[Tensor]:
        """The value of each layer, (B, ...)."""
        return self.split(self.flat(images))

    def __call__(self, images: Tensor) -> Tensor:
        """The value of the first layer, (B, ...)."""
        return self.parts(images)[0]
