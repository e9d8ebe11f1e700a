"""The first convolution of a network, rewritten for the way a CPU computes."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.own_gradient import OwnGradient


def is_stem(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `Stem` can take the module's place: a strided, square, zero-padded convolution of three channels.

    >>> is_stem(nn.Conv2d(3, 64, 7, stride=2, padding=3)), is_stem(nn.Conv2d(3, 64, 3))
    (True, False)
    """
    return (
        type(module) is nn.Conv2d  # subclasses may do more than convolve
        and module.in_channels == 3
        and module.stride[0] == module.stride[1] > 1
        and module.kernel_size[0] == module.kernel_size[1]
        and module.padding in {(n, n) for n in range(module.kernel_size[0])}  # not "same" or "valid"
        and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
    )


class Stem(nn.Module):
    """A convolution of stride s whose gradient is that of one of stride 1 on s x s blocks of pixels as channels.

    The result is the same, with the kernel filled up with zeros to a multiple of s. A CPU's convolutions work on 16
    channels at a time, of which an image fills 3; its s * s * 3 leave fewer idle. That pays in the backward pass; in
    the forward pass less than it takes to rearrange the pixels.

    >>> import torch
    >>> convolution = nn.Conv2d(3, 8, 7, stride=2, padding=3)
    >>> x = torch.rand(1, 3, 20, 21, requires_grad=True)
    >>> slopes = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (Stem(convolution), convolution)]
    >>> torch.allclose(*slopes, atol=1e-5)
    True
    """

    weight: Tensor
    block_weight: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        kernel, self.stride, self.padding = (
            int(n[0]) for n in (convolution.kernel_size, convolution.stride, convolution.padding)
        )
        filling = -kernel % self.stride
        weight = convolution.weight.detach()
        self.register_buffer("weight", weight)
        blocks = F.pixel_unshuffle(F.pad(weight, (0, filling, 0, filling)), self.stride)
        self.register_buffer("block_weight", blocks, persistent=False)
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives for images (B, 3, H, W)."""
        y: Tensor = OwnGradient.apply(x, self)
        return y

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        return F.conv2d(x, self.weight, bias, self.stride, self.padding)

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        blocks = F.conv_transpose2d(grad.to(self.block_weight), self.block_weight).to(grad)
        slope = F.pixel_shuffle(blocks, self.stride)
        # Without the padding; where the stride leaves pixels over, the convolution does not see them.
        bottom, right = (n + self.padding - there for n, there in zip(size, slope.shape[2:], strict=True))
        return F.pad(slope, (-self.padding, right, -self.padding, bottom))
