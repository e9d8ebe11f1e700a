"""Convolutions whose gradient is computed in 16 bits: right to a hundredth, at about half the time."""

from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.own_gradient import OwnGradient

LEAST = 32  # multiplications for each number that is brought to 16 bits or back; with fewer, that takes what they save


def gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `HalfGradient` can take the module's place, and is faster where bfloat16 is.

    >>> gains(nn.Conv2d(64, 64, 3)), gains(nn.Conv2d(32, 16, 1)), gains(nn.Conv2d(64, 64, 3, groups=64))
    (True, False, False)
    """
    if type(module) is not nn.Conv2d or module.groups > 1 or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str) or module.weight.dtype != torch.float32:
        return False
    kernel, stride = (pair[0] * pair[1] for pair in (module.kernel_size, module.stride))
    numbers = module.out_channels + module.in_channels * stride
    return module.in_channels * module.out_channels * kernel >= LEAST * numbers


class HalfGradient(nn.Module):
    """A convolution, with a gradient that is computed in bfloat16 and added up in 32 bits.

    >>> convolution = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    >>> x = torch.rand(1, 16, 20, 21, requires_grad=True)
    >>> slopes = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (HalfGradient(convolution), convolution)]
    >>> torch.allclose(*slopes, atol=0.01 * float(slopes[1].abs().max()))
    True
    """

    weight: Tensor
    half_weight: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.dilation = convolution.stride, convolution.dilation
        self.padding = cast(tuple[int, int], convolution.padding)
        weight = convolution.weight.detach()
        self.register_buffer("weight", weight)
        self.register_buffer("half_weight", weight.bfloat16(), persistent=False)
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives for (B, C, H, W)."""
        y: Tensor = OwnGradient.apply(x, self)
        return y

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        return F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation)

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        weight, stride, padding, dilation = self.half_weight, self.stride, self.padding, self.dilation
        # Pixels in the end that the stride leaves over: the convolution does not see them.
        over = [
            (n + 2 * p - d * (k - 1) - 1) % s
            for n, p, d, k, s in zip(size, padding, dilation, weight.shape[2:], stride, strict=True)
        ]
        return F.conv_transpose2d(grad.to(weight), weight, None, stride, padding, over, 1, dilation).to(grad)
