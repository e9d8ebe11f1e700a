"""The first convolution of a network, with a gradient that is fast on CPUs."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.own_gradient import OwnGradient


def is_stem(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `Stem` can replace the module: a strided, square, zero-padded convolution of three channels.

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
    """A stride-s convolution whose gradient is computed as that of a stride-1 convolution on s x s pixel blocks.

    Each block of pixels becomes s * s * 3 channels, and the kernel is zero-padded to a multiple of s; the result is the
    same. Convolutions on a CPU process 16 channels at a time, of which an image fills only 3 and its blocks more. This
    pays off in the backward pass only: in the forward pass, rearranging the pixels costs more than it saves.

    >>> import torch
    >>> convolution = nn.Conv2d(3, 8, 7, stride=2, padding=3)
    >>> x = torch.rand(1, 3, 20, 21, requires_grad=True)
    >>> gradients = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (Stem(convolution), convolution)]
    >>> torch.allclose(*gradients, atol=1e-5)
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
        extra = -kernel % self.stride
        weight = convolution.weight.detach()
        self.register_buffer("weight", weight)
        blocks = F.pixel_unshuffle(F.pad(weight, (0, extra, 0, extra)), self.stride)
        self.register_buffer("block_weight", blocks, persistent=False)
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images (B, 3, H, W)."""
        y: Tensor = OwnGradient.apply(x, self)
        return y

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        return F.conv2d(x, self.weight, bias, self.stride, self.padding)

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """See `oodattack.speed.own_gradient.Layer`."""
        blocks = F.conv_transpose2d(grad.to(self.block_weight), self.block_weight).to(grad)
        padded = F.pixel_shuffle(blocks, self.stride)
        # Crop the padding, and add zeros for trailing pixels that the stride skips.
        bottom, right = (n + self.padding - side for n, side in zip(size, padded.shape[2:], strict=True))
        return F.pad(padded, (-self.padding, right, -self.padding, bottom))
