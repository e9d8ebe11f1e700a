"""Convolutions whose gradient is computed in bfloat16: with about one per cent error, in about half the time."""

from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.own_gradient import OwnGradient

MIN_PRODUCTS_PER_CAST = 32  # with fewer multiplications per value cast to or from bfloat16, the casts dominate


def worth_halving(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `HalfGradient` can replace the module, and is faster than it where bfloat16 is fast.

    >>> convolutions = nn.Conv2d(64, 64, 3), nn.Conv2d(32, 16, 1), nn.Conv2d(64, 64, 3, groups=64)
    >>> [worth_halving(convolution) for convolution in convolutions]
    [True, False, False]
    """
    if type(module) is not nn.Conv2d or module.groups > 1 or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str) or module.weight.dtype != torch.float32:
        return False
    kernel, stride = (pair[0] * pair[1] for pair in (module.kernel_size, module.stride))
    casts = module.out_channels + module.in_channels * stride
    return module.in_channels * module.out_channels * kernel >= MIN_PRODUCTS_PER_CAST * casts


class HalfGradient(nn.Module):
    """A convolution whose gradient is computed in bfloat16 and accumulated in float32.

    >>> convolution = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    >>> x = torch.rand(1, 16, 20, 21, requires_grad=True)
    >>> gradients = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (HalfGradient(convolution), convolution)]
    >>> torch.allclose(*gradients, atol=0.01 * float(gradients[1].abs().max()))
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
        """Convolve (B, C, H, W)."""
        y: Tensor = OwnGradient.apply(x, self)
        return y

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        return F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation)

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        weight, stride, padding, dilation = self.half_weight, self.stride, self.padding, self.dilation
        # The number of trailing pixels that the stride skips.
        skipped = [
            (n + 2 * p - d * (k - 1) - 1) % s
            for n, p, d, k, s in zip(size, padding, dilation, weight.shape[2:], stride, strict=True)
        ]
        return F.conv_transpose2d(grad.to(weight), weight, None, stride, padding, skipped, 1, dilation).to(grad)
