"""One stage of a chain, in two forms: exact for 8-bit images and differentiable for tensors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Stage(ABC):
    """A stage, such as resizing. Its `str` is its part of the chain's name."""

    @abstractmethod
    def apply(self, image: Image.Image) -> Image.Image:
        """What the product does, with Pillow."""

    @abstractmethod
    def surrogate(self, x: Tensor) -> Tensor:
        """A differentiable approximation, from (B, 3, H, W) in [0, 1] to (B, 3, h, w) in [0, 1]."""
