"""Crop the centre of images."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from oodattack.encoders.pipeline.stage import Stage


@dataclass(frozen=True)
class Crop(Stage):
    """Crop the centre, as torchvision does; an image that is smaller is padded with black.

    Attributes:
        size: (height, width) in pixels.

    >>> import torch
    >>> Crop((2, 3)).surrogate(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 2, 3])
    """

    size: tuple[int, int]

    def apply(self, image: Image.Image) -> Image.Image:
        """See `Stage`."""
        cropped: Image.Image = F.center_crop(image, list(self.size))
        return cropped

    def surrogate(self, x: Tensor) -> Tensor:
        """The same in floating point."""
        cropped: Tensor = F.center_crop(x, list(self.size))
        return cropped

    def __str__(self) -> str:
        height, width = self.size
        return f"crop={height}" if height == width else f"crop={height}x{width}"
