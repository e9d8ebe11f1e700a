"""Resize images as torchvision and timm do: with Pillow, antialiased."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from oodattack.encoders.pipeline.stage import Stage

FILTERS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Resize(Stage):
    """Resize with an antialiased filter.

    Attributes:
        size: (side,) to resize the shorter side to and keep the aspect ratio, or (height, width), in pixels.
        filter: one of FILTERS.

    >>> import torch
    >>> stage = Resize((4,), "bilinear")
    >>> stage.surrogate(torch.zeros(1, 3, 8, 12)).shape, stage.apply(Image.new("RGB", (12, 8))).size
    (torch.Size([1, 3, 4, 6]), (6, 4))
    """

    size: tuple[int, ...]
    filter: str

    def apply(self, image: Image.Image) -> Image.Image:
        """See `Stage`."""
        resized: Image.Image = F.resize(image, list(self.size), InterpolationMode(self.filter))
        return resized

    def surrogate(self, x: Tensor) -> Tensor:
        """The same filter in floating point; Pillow rounds to 8 bits after each of its two passes."""
        resized: Tensor = F.resize(x, list(self.size), InterpolationMode(self.filter), antialias=True)
        return resized.clamp(0, 1)  # bicubic filters overshoot

    def __str__(self) -> str:
        return f"resize={'x'.join(map(str, self.size))}:{self.filter}"
