"""Intermediate values of a network as a differentiable function of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

import torch
from torch import Tensor

from oodattack.encoders import Encoder
from oodattack.speed import prepare

_passes: ContextVar[dict[tuple["View", int], Tensor] | None] = ContextVar("_passes", default=None)


@contextmanager
def shared_passes() -> Iterator[None]:
    """While active, each view computes the values of the same images only once if a gradient is needed.

    For several detectors on the same images, whose sum or maximum is differentiated once. Images must not change
    meanwhile.
    """
    token = _passes.set({})
    try:
        yield
    finally:
        _passes.reset(token)


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
        self._last: tuple[Tensor, int, Tensor] | None = None

    def flat(self, images: Tensor) -> Tensor:
        """All values in one row per image: (B, K)."""
        if torch.is_grad_enabled() and images.requires_grad:
            passes = _passes.get()
            if passes is None:
                z: Tensor = self.fast(images)
                return z
            if (self, id(images)) not in passes:
                passes[self, id(images)] = self.fast(images)
            return passes[self, id(images)]
        if images.is_inference() or torch.is_inference_mode_enabled():
            # Such images do not count their changes, and such a result cannot be used where a gradient is needed.
            return self._exactly(images)
        # Dozens of detectors score the same images one after the other, so the last result is kept.
        version = images._version  # incremented when a tensor is changed in place
        if self._last is None or self._last[0] is not images or self._last[1] != version:
            self._last = (images, version, self._exactly(images))
        return self._last[2]

    @torch.no_grad()
    def _exactly(self, images: Tensor) -> Tensor:
        values: Tensor = self.exact(images)
        return values

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
