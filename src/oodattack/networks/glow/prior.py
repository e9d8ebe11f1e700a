"""The normal distributions of the latents of each level."""

import math

import torch
from torch import Tensor, nn

from oodattack.networks.glow.coupling import ZeroConv, bounded


class SplitPrior(nn.Module):
    """The distribution of the channels that leave the flow after a level, given those that stay; it starts as N(0, 1).

    The logarithms of its standard deviations are `bounded`, so that densities far from the data do not overflow.

    Args:
        channels: number of channels that stay, and of those that leave.

    >>> mean, log_std = SplitPrior(6)(torch.rand(2, 6, 4, 4))
    >>> mean.shape, bool((log_std == 0).all())
    (torch.Size([2, 6, 4, 4]), True)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv(channels, 2 * channels)

    def forward(self, stays: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and logarithm of the standard deviation, each (B, C, H, W)."""
        mean, s = self.conv(stays).to(stays.dtype).chunk(2, dim=1)
        return mean, bounded(s)


class TopPrior(nn.Module):
    """The distribution of the top level: mean and standard deviation of each channel; it starts as N(0, 1).

    Args:
        channels: number of channels of the top level.

    >>> TopPrior(48)()[0].shape
    torch.Size([48, 1, 1])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation, each (C, 1, 1)."""
        return self.mean, self.log_std


def log_normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Compute the log-densities (B,) of z (B, C, H, W), in nats.

    >>> log_normal(torch.zeros(1, 2, 1, 1), torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))
    tensor([-1.8379])
    """
    standard = (z - mean) * (-log_std).exp()
    nats: Tensor = -(standard.square() / 2 + log_std).sum((1, 2, 3)) - z[0].numel() * math.log(2 * math.pi) / 2
    return nats
