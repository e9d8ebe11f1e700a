"""The copy of an encoder that an attack calls hundreds of times."""

from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from oodattack.encoders.encoder import Encoder


class Prepared(nn.Module):
    """A copy of an encoder in channels-last memory format; images may be in any memory format.

    Args:
        encoder: the copy, which is modified in place.
        dtype: the type in which its model computes; None leaves the model unchanged.

    Attributes:
        rough_twin: a bfloat16 copy if that is faster, else None (`oodattack.speed.rough`). It approximates f where
            exact values are not needed: `attack` evaluates it while a sample is far from its target.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.casts = dtype is not None
        if dtype is not None:
            encoder.model.to(dtype)
        self._twin: Self | None = None

    @property
    def rough_twin(self) -> Self | None:
        """See `oodattack.core.gradient.HasTwin`."""
        return self._twin

    def add_twin(self, twin: Self | None) -> None:
        """Set the twin: a copy in 16 bits, for use where results need not be exact."""
        self._twin = twin

    def forward(self, x: Tensor) -> Tensor:
        """Compute the encoder's z, (B, K), for images (B, 3, H, W)."""
        # Normalise in the caller's layout, because elementwise arithmetic on three channels-last channels is slow, and
        # return the gradient in the contiguous layout of the attack's loop, because mixing layouts is slow too.
        normalised = self.encoder.normalise(x)
        if normalised.requires_grad:
            normalised.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        if not self.casts:
            return self.encoder.latents(normalised.contiguous(memory_format=torch.channels_last))
        weights = chain(self.encoder.model.parameters(), self.encoder.model.buffers())
        dtype = next(tensor.dtype for tensor in weights if tensor.is_floating_point())
        return self.encoder.latents(normalised.to(dtype, memory_format=torch.channels_last)).to(normalised)
