"""Images without labels, to train a model of images on."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from oodattack.core.pixels import LEVELS, dequantize
from oodattack.images import ImageSource, fit
from oodattack.training.data import augmentation


class Unlabelled(Dataset[Tensor]):
    """Images (3, size, size) in [0, 1].

    Args:
        source: the images.
        indices: which of them are used, in order.
        size: side in pixels.
        augment: any of "crop" and "flip".
        mutate: share of pixel values to replace by uniformly random ones, anew in each pass.
    """

    def __init__(
        self, source: ImageSource, indices: Sequence[int], size: int, augment: Sequence[str] = (), mutate: float = 0.0
    ) -> None:
        self.source, self.indices, self.size, self.mutate = source, indices, size, mutate
        self.augment = augmentation(size, augment)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        image = fit(self.source.read(self.indices[index]), (self.size, self.size))
        image = self.augment(image)
        return dequantize(mutated(image, self.mutate) if self.mutate else image)


def mutated(image: Tensor, share: float) -> Tensor:
    """Replace pixel values, each with probability ``share``, by uniformly random ones (Ren et al. 2019, Section 4).

    Args:
        image: uint8, of any shape.
        share: in [0, 1]. A replaced value may happen to equal the original.

    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> torch.equal(mutated(image, 0.0), image), torch.equal(mutated(image, 0.5), image)
    (True, False)
    """
    replaced = torch.rand(image.shape) < share
    return torch.where(replaced, torch.randint(LEVELS + 1, image.shape, dtype=torch.uint8), image)
