"""Images that are already in Python, as a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from oodattack.core.errors import InputError
from oodattack.images.dataset import DatasetSource, to_levels
from oodattack.images.files import numbered
from oodattack.images.sources import ImageSource

OBJECT = "object:"  # begins the spec of such a source


@dataclass(frozen=True)
class _Stack:
    """Images (N, 3, H, W) uint8 in memory, and their class numbers (N,), if known."""

    images: Tensor
    targets: Sequence[int] | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        return self.images[index], None if self.targets is None else self.targets[index]


def image_source(images: Any, name: str) -> ImageSource:
    """Make an image source of images that are already in Python.

    Args:
        images: one of the following, with images as in `oodattack.images.dataset.DatasetSource`:

            - a tensor (N, 3, H, W), uint8 or floating point in [0, 1], which is rounded to 8 bits; or a tuple of such a
              tensor and class numbers (N,);
            - a data set or sequence, with images or tuples of an image and its class number, and deterministic;
            - a `torch.utils.data.DataLoader` of one: the images that its sampler draws, in the order of the data set.
        name: the name of the source; images without names are called NAME/00000 and so on.

    Raises:
        InputError: for anything else, or images of another shape or range.

    >>> source = image_source((torch.zeros(2, 3, 4, 5), torch.tensor([1, 0])), "train")
    >>> source.names, source.read(0).shape, source.labels([0, 1]).names
    (('train/00000', 'train/00001'), torch.Size([3, 4, 5]), ('1', '0'))
    """
    spec = OBJECT + name
    if isinstance(images, Tensor):
        return _stacked(images, None, spec, name)
    if isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], Tensor) and images[0].ndim == 4:
        return _stacked(*images, spec, name)
    if isinstance(images, DataLoader):
        if isinstance(images.dataset, torch.utils.data.IterableDataset):
            raise InputError(
                f"expected {name} as a loader of a data set with indices, got an iterable one; pass tensors"
            )
        drawn = sorted({int(index) for index in images.sampler})
        images = images.dataset if len(drawn) == len(images.dataset) else Subset(images.dataset, drawn)  # type: ignore[arg-type]
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or isinstance(images, dict | str):
        raise InputError(
            f"expected {name} as a tensor (N, 3, H, W), a tuple of images and class numbers, a data set or a"
            f" DataLoader, got {type(images).__name__}"
        )
    if len(images) == 0:
        raise InputError(f"expected images in {name}, got none")
    return DatasetSource(spec, tuple(numbered(name, len(images))), images)


def _stacked(images: Tensor, targets: Any, spec: str, name: str) -> ImageSource:
    levels = to_levels(images, name)
    numbers = None if targets is None else [int(target) for target in targets]
    if numbers is not None and len(numbers) != len(levels):
        raise InputError(f"expected a class number for each of {len(levels)} images of {name}, got {len(numbers)}")
    return DatasetSource(spec, tuple(numbered(name, len(levels))), _Stack(levels, numbers))
