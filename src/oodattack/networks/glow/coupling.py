"""The affine coupling: half of the channels are shifted and scaled by a network that reads the other half."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.networks.glow.actnorm import ActNorm
from oodattack.networks.glow.layer import Layer

# Trained on patches of photographs, a flow with scales bounded to (-4, 4) reaches the same likelihood as one without
# bounds, whose scales are rounded to 0 on images of noise (s below -700), so that these cannot be decoded.
BOUND = 4.0


class Coupling(Layer):
    """Maps channels (a, b) to ``(a, (b + shift(a)) * sigmoid(s(a) + 2))``, with s `bounded`.

    The logarithm of the scale is computed by `logsigmoid`, which is accurate for small scales. Scaling comes after
    shifting, so that small scales lose no digits of b.

    Args:
        channels: number of channels, even.
        width: number of hidden channels of the network.

    >>> coupling = Coupling(12, width=16)
    >>> h = torch.randn(8, 12, 4, 4)
    >>> torch.allclose(coupling.inverse(coupling(h)[0]), h, atol=1e-5)
    True
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _NormedConv(channels // 2, width, 3)
        self.conv2 = _NormedConv(width, width, 1)
        self.conv3 = ZeroConv(width, channels)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer`."""
        a, b = h.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(a)
        return torch.cat([a, (b + shift) * log_scale.exp()], dim=1), log_scale.sum((1, 2, 3))

    def inverse(self, h: Tensor) -> Tensor:
        """See `Layer`."""
        a, b = h.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(a)
        return torch.cat([a, b * (-log_scale).exp() - shift], dim=1)

    def _shift_and_log_scale(self, a: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.conv2(F.relu(self.conv1(a))))
        shift, s = self.conv3(hidden).to(a.dtype).chunk(2, dim=1)
        return shift, F.logsigmoid(bounded(s) + 2)


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts as zero, with a learned scale per output channel.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_scale = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Convolve and scale."""
        # The factor 3 is that of the authors' code; it makes the scale learn faster.
        return F.conv2d(h, self.weight, self.bias, padding=1) * (3 * self.log_scale).exp()


class _NormedConv(nn.Module):
    """A convolution followed by activation normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = ActNorm(outputs)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(h))[0]
        return out


def bounded(s: Tensor) -> Tensor:
    """Map s smoothly and monotonically to (-4, 4), with derivative 1 at 0.

    Far from 0, the gradient decays with the square of s and not exponentially, so that it does not vanish where the
    networks of a flow are far from their training data.

    >>> bounded(torch.tensor([0.0, 1.0, -4.0, -1e9])).tolist()
    [0.0, 0.800000011920929, -2.0, -4.0]
    """
    return BOUND * F.softsign(s / BOUND)
