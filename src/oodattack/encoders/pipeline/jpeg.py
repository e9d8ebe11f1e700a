"""JPEG compression, as in uploads and cameras."""

import functools
import math
from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oodattack.encoders.pipeline.base import straight_through
from oodattack.encoders.pipeline.stage import Stage

# Lower bound on the derivative of rounding u, which is that of round(u) + (u - round(u))^3 (Shin & Song 2017,
# "JPEG-resistant adversarial images"): largest halfway between two steps, from where a small change reaches the other.
MIN_DERIVATIVE = 0.1
# The discrete cosine transform of 8 numbers, orthonormal.
_DCT = torch.tensor(
    [[math.sqrt((1 if k else 0.5) / 4) * math.cos(math.pi * (2 * n + 1) * k / 16) for n in range(8)] for k in range(8)]
)


@dataclass(frozen=True)
class Jpeg(Stage):
    """Compress and decode, with the chroma at half the resolution (4:2:0), Pillow's default.

    Attributes:
        quality: of libjpeg, 1 to 100.

    >>> Jpeg(90).apply(Image.new("RGB", (12, 8))).size
    (12, 8)
    """

    quality: int

    def apply(self, image: Image.Image) -> Image.Image:
        """See `Stage`."""
        return Image.open(_compressed(image, self.quality)).convert("RGB")

    def surrogate(self, x: Tensor) -> Tensor:
        """JPEG in floating point, whose rounding of coefficients has a derivative (see `MIN_DERIVATIVE`)."""
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
        red, green, blue = padded.unbind(1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # JFIF's YCbCr
        chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1)
        luma_steps, chroma_steps = _steps(self.quality).to(x)
        luma = _quantised(luma[:, None], luma_steps)[:, 0]
        chroma = _quantised(F.avg_pool2d(chroma, 2), chroma_steps)
        cb, cr = F.interpolate(chroma, scale_factor=2, mode="bilinear").unbind(1)  # as libjpeg enlarges it
        red, blue = luma + 1.402 * cr, luma + 1.772 * cb
        green = (luma - 0.299 * red - 0.114 * blue) / 0.587
        return torch.stack([red, green, blue], dim=1)[..., :height, :width].clamp(0, 1)

    def __str__(self) -> str:
        return f"jpeg={self.quality}"


def _compressed(image: Image.Image, quality: int) -> BytesIO:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file


@functools.cache
def _steps(quality: int) -> Tensor:
    """(2, 8, 8) quantisation steps of the coefficients of luma and chroma, for pixels in [0, 1]."""
    tables = Image.open(_compressed(Image.new("RGB", (8, 8)), quality)).quantization  # type: ignore[attr-defined]
    return torch.tensor([tables[0], tables[1]]).view(2, 8, 8) / 255


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, H, W) with the coefficients of their 8x8 blocks rounded to multiples of the steps (8, 8)."""
    dct = _DCT.to(planes)
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = dct @ blocks @ dct.T / steps
    with torch.no_grad():
        rounded = coefficients.round()
        derivative = (3 * (coefficients - rounded) ** 2).clamp_min(MIN_DERIVATIVE)
    rounded = straight_through(derivative * coefficients, rounded)
    return (dct.T @ (rounded * steps) @ dct).transpose(3, 4).reshape(planes.shape)
