"""Training data: labelled images and outliers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.images import ImageSource, fit

_REMEDY = "put each class in a folder of its own, or name a data set that has labels"


class Labelled(Dataset[tuple[Tensor, int]]):
    """Images (3, size, size) in [0, 1] with the index of their class in ``classes``.

    Args:
        source: images with labels.
        size: side in pixels.
        classes: class names; by default those of the source.
        augment: any of "crop" and "flip".

    Raises:
        InputError: if the images have no labels, fewer than two classes, or a class that is not in ``classes``.
    """

    def __init__(
        self, source: ImageSource, size: int, classes: Sequence[str] | None = None, augment: Sequence[str] = ()
    ) -> None:
        self.source, self.size = source, size
        labels = source.labels(range(len(source)))
        if labels is None:
            raise InputError(f"expected images with labels in {source.spec}, got images without labels; {_REMEDY}")
        self.classes = tuple(classes or labels.classes or map(str, range(1 + max(map(int, labels.names)))))
        if len(self.classes) < 2:
            found = f"only {self.classes[0]!r}" if self.classes[0] else "images without class folders"
            raise InputError(f"expected at least two classes in {source.spec}, got {found}; {_REMEDY}")
        unknown = sorted(set(labels.names) - set(self.classes))
        if unknown:
            found = repr(unknown[0]) if unknown[0] else "images without class folders"
            raise InputError(f"expected the classes of the training images in {source.spec}, got {found}")
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers[name] for name in labels.names]
        self.augment = augmentation(size, augment)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = fit(self.source.read(index), (self.size, self.size))
        return dequantize(self.augment(image)), self.labels[index]


def augmentation(size: int, names: Sequence[str]) -> v2.Transform:
    """Random augmentation of images (3, size, size), uint8.

    Args:
        size: side in pixels.
        names: any of "crop" (shifts by up to an eighth of the side) and "flip" (horizontal).

    >>> augmentation(32, ("crop", "flip"))(torch.zeros(3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([3, 32, 32])
    """
    transforms: list[v2.Transform] = [v2.Identity()]
    if "crop" in names:
        transforms.append(v2.RandomCrop(size, padding=max(1, size // 8), padding_mode="edge"))
    if "flip" in names:
        transforms.append(v2.RandomHorizontalFlip())
    return v2.Compose(transforms)


class Outliers:
    """Outlier images, which belong to no class, sampled at random; rounds add attacked images to them.

    Args:
        sources: the image sources.
        size: side in pixels.
        hold_out: whether to hold out the images with odd indices from training, for evaluation.

    Attributes:
        found: batches of attacked images, (N, 3, H, W) uint8.
        trained: indices of the source images to train on.
        held_out: indices of the source images held out.
    """

    def __init__(self, sources: Sequence[ImageSource], size: int, *, hold_out: bool = False) -> None:
        self.sources, self.size = sources, size
        self.found: list[Tensor] = []
        count = sum(map(len, sources))
        self.trained = range(0, count, 2 if hold_out else 1)
        self.held_out = range(1, count, 2) if hold_out else range(0)

    def __len__(self) -> int:
        return sum(map(len, self.sources)) + sum(map(len, self.found))

    def get(self, index: int) -> Tensor:
        """Image ``index``, (3, size, size) uint8; source images come first, then the added ones."""
        part, place = self._find(index)
        return part[place] if isinstance(part, Tensor) else fit(part.read(place), (self.size, self.size))

    def name(self, index: int) -> str:
        """File name of source image ``index``; attacked images have none."""
        part, place = self._find(index)
        if isinstance(part, Tensor):
            raise IndexError(index)
        return part.names[place]

    def _find(self, index: int) -> tuple[ImageSource | Tensor, int]:
        """The source or batch that contains image ``index``, and its place there."""
        parts: list[ImageSource | Tensor] = [*self.sources, *self.found]
        for part in parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Sample (count, 3, size, size) images in [0, 1]; if attacked images were added, half of them are attacked."""
        natural = sum(map(len, self.sources))
        places = torch.randint(len(self.trained), (count,), generator=generator)
        indices = torch.tensor([self.trained[i] for i in places.tolist()])
        if self.found:
            half = count // 2
            indices[:half] = natural + torch.randint(len(self) - natural, (half,), generator=generator)
        return dequantize(torch.stack([self.get(i) for i in indices.tolist()]))
