"""An encoder's copy in the form that an attack calls hundreds of times."""

from typing import Self

import torch
from torch import Tensor, nn

from oodattack.encoders.encoder import Encoder


class Prepared(nn.Module):
    """An encoder's copy in channels-last memory; images may come in any memory format.

    Args:
        encoder: the copy, which is changed.
        dtype: that its model computes in; None leaves the model as it is.

    Attributes:
        rough: the same in 16 bits, where that is faster, or None (`oodattack.encoders.rough`): about f, for what need
            not be exact. `attack` asks it while a sample is far from its target.
    """

    rough: Self | None

    def __init__(self, encoder: Encoder, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.dtype = dtype
        if dtype is not None:
            encoder.model.to(dtype)
        self.rough = None

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's z, (B, K), of images (B, 3, H, W)."""
        # Normalised in the caller's layout, for arithmetic on each pixel's three channels is slow; and the gradient in
        # that of the loop, for arithmetic on a mixture of layouts is slow, too.
        normalised = self.encoder.normalise(x)
        if normalised.requires_grad:
            normalised.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        given = normalised.to(self.dtype or normalised.dtype, memory_format=torch.channels_last)
        return self.encoder.latents(given).to(normalised)
