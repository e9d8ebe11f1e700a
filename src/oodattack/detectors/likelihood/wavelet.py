"""Soft counts of the bits of an image's wavelet coefficients: a differentiable model of a lossless codec."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from oodattack.core.pixels import LEVELS

SMALLEST = 4  # pixels; a side that is not split further


def soft_bits(images: Tensor, width: float) -> Tensor:
    """The sum of ``log2(1 + |c| / width)`` over the wavelet coefficients c of RGB and of a colour transform.

    The transforms are those of lossless JPEG 2000 (ISO/IEC 15444-1, Annexes F and G) without their rounding: the 5/3
    wavelet and Y = (R + 2G + B) / 4, B - G, R - G.

    Args:
        images: (B, 3, H, W) in [0, 1].
        width: the coefficient that costs one bit, in levels of an 8-bit pixel.

    Returns:
        (B, 2) bits: of RGB and of the transformed colours.

    >>> flat, noisy = torch.full((1, 3, 8, 8), 0.5), torch.rand(1, 3, 8, 8)
    >>> (soft_bits(flat, 1.0) < soft_bits(noisy, 1.0)).tolist()
    [[True, True]]
    """
    rgb = LEVELS * images
    red, green, blue = rgb.unbind(1)
    luma = torch.stack([(red + 2 * green + blue) / 4, blue - green, red - green], dim=1)
    coefficients = _transform(torch.cat([rgb, luma], dim=1))
    per_plane = torch.stack([(1 + c.abs() / width).log2().sum((2, 3)) for c in coefficients]).sum(0)
    return per_plane.view(-1, 2, 3).sum(2)


def _transform(planes: Tensor) -> list[Tensor]:
    """The details of every scale, (B, C, h, w) each, some transposed, and what remains at the coarsest one."""
    details: list[Tensor] = []
    while min(planes.shape[2:]) >= SMALLEST:
        low, high = (_split(half.mT) for half in _split(planes))
        planes = low[0]
        details += [low[1], *high]
    return [*details, planes]


def _split(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Averages and details along rows: every other pixel is predicted as the mean of its two neighbours."""
    even, odd = planes[..., ::2], planes[..., 1::2]
    following = pad(even[..., 1:], (0, 1, 0, 0), mode="replicate")[..., : odd.shape[-1]]
    detail = odd - (even[..., : odd.shape[-1]] + following) / 2
    padded = pad(detail, (1, even.shape[-1] - odd.shape[-1], 0, 0), mode="replicate")
    return even + (padded[..., :-1] + padded[..., 1:]) / 4, detail
