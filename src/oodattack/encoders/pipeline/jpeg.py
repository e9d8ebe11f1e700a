"""JPEG compression, as in uploads and cameras."""

from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oodattack.encoders.pipeline.stage import Stage

LUMA = (0.299, 0.587, 0.114)  # of JFIF


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
        file = BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        return Image.open(file).convert("RGB")

    def surrogate(self, x: Tensor) -> Tensor:
        """What JPEG does besides rounding: the part of the image that is not luma is halved in size and enlarged again.

        Rounding is skipped: the transforms before and after it then cancel.
        """
        luma = (x * torch.tensor(LUMA).to(x)[:, None, None]).sum(1, keepdim=True)
        height, width = x.shape[2:]
        even = F.pad(x - luma, (0, width % 2, 0, height % 2), mode="replicate")
        chroma = F.interpolate(F.avg_pool2d(even, 2), scale_factor=2, mode="bilinear")  # as libjpeg enlarges it
        return luma + chroma[..., :height, :width]

    def __str__(self) -> str:
        return f"jpeg={self.quality}"
