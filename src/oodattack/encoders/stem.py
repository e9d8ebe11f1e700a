"""The first convolution of a network, rewritten for the way a CPU computes."""

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F


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
    """A convolution of stride s as one of stride 1 on images whose s x s blocks of pixels have become channels.

    The result is the same, with the kernel filled up with zeros to a multiple of s. A CPU's convolutions work on 16
    channels at a time, of which an image fills 3; its s * s * 3 leave fewer idle, above all in the backward pass.

    >>> import torch
    >>> convolution = nn.Conv2d(3, 8, 7, stride=2, padding=3)
    >>> x = torch.rand(1, 3, 20, 21)
    >>> torch.allclose(Stem(convolution)(x), convolution(x), atol=1e-6)
    True
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = (
            int(n[0]) for n in (convolution.kernel_size, convolution.stride, convolution.padding)
        )
        self.blocks = -(-self.kernel // self.stride)
        filling = self.blocks * self.stride - self.kernel
        weight = F.pad(convolution.weight.detach(), (0, filling, 0, filling))
        self.register_buffer("weight", F.pixel_unshuffle(weight, self.stride))
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives for images (B, 3, H, W)."""
        top, left = self.padding, self.padding
        bottom, right = (self._length(n) - self.padding - n for n in x.shape[2:])
        # Where the stride leaves pixels over, the right or lower padding is negative: they are cut off.
        x = F.pixel_unshuffle(F.pad(x, (left, right, top, bottom)), self.stride)
        return F.conv2d(x, self.weight, self.bias)

    def _length(self, pixels: int) -> int:
        """Pixels that the convolution looks at along an axis, padding included."""
        outputs = (pixels + 2 * self.padding - self.kernel) // self.stride + 1
        return (outputs + self.blocks - 1) * self.stride
