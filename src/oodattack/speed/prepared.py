"""An encoder's copy in the form that an attack calls hundreds of times."""

from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from oodattack.encoders.encoder import Encoder


class Prepared(nn.Module):
    """An encoder's copy in channels-last memory; images may come in any memory format.

    Args:
        encoder: the copy, which is changed.
        dtype: that its model is to compute in; None leaves the model as it is.

    Attributes:
        rough_twin: the same in 16 bits, where that is faster, or None (`oodattack.speed.rough`): about f, for what
            need not be exact. `attack` asks it while a sample is far from its target.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.own_type = dtype is not None
        if dtype is not None:
            encoder.model.to(dtype)
        self._twin: Self | None = None

    @property
    def rough_twin(self) -> Self | None:
        """See `oodattack.core.gradient.HasTwin`."""
        return self._twin

    def add_twin(self, twin: Self | None) -> None:
        """Let the copy offer another, in 16 bits, for what need not be exact."""
        self._twin = twin

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's z, (B, K), of images (B, 3, H, W)."""
        # Normalised in the caller's layout, for arithmetic on each pixel's three channels is slow; and the gradient in
        # that of the loop, for arithmetic on a mixture of layouts is slow, too.
        normalised = self.encoder.normalise(x)
        if normalised.requires_grad:
            normalised.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        if not self.own_type:
            return self.encoder.latents(normalised.contiguous(memory_format=torch.channels_last))
        weights = chain(self.encoder.model.parameters(), self.encoder.model.buffers())
        dtype = next(tensor.dtype for tensor in weights if tensor.is_floating_point())
        return self.encoder.latents(normalised.to(dtype, memory_format=torch.channels_last)).to(normalised)
