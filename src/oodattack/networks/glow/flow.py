"""The steps of a level, one after another."""

from collections.abc import Iterable, Reversible
from typing import cast

import torch
from torch import Tensor, nn

from oodattack.networks.glow.actnorm import ActNorm
from oodattack.networks.glow.coupling import Coupling
from oodattack.networks.glow.layer import Layer
from oodattack.networks.glow.mixing import Mixing


class Flow(Layer):
    """Several layers as one.

    >>> Flow([ActNorm(12), Mixing(12)])(torch.rand(2, 12, 4, 4))[0].shape
    torch.Size([2, 12, 4, 4])
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer`."""
        log_det = torch.zeros((), dtype=h.dtype, device=h.device)
        for layer in self.layers:
            h, more = layer(h)
            log_det = log_det + more
        return h, log_det

    def inverse(self, h: Tensor) -> Tensor:
        """See `Layer`."""
        for layer in reversed(cast(Reversible[Layer], self.layers)):
            h = layer.inverse(h)
        return h


def glow_steps(channels: int, steps: int, width: int) -> Flow:
    """Build the steps of a level: activation normalisation, invertible 1x1 convolution and affine coupling, each.

    >>> len(glow_steps(12, steps=2, width=8).layers)
    6
    """
    layers: list[Layer] = []
    for _ in range(steps):
        layers += [ActNorm(channels), Mixing(channels), Coupling(channels, width)]
    return Flow(layers)
