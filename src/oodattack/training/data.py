"""Images to train on."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.images import ImageSource, fit

_REMEDY = "put them in one folder a class, or name a data set that has labels"


class Labelled(Dataset[tuple[Tensor, int]]):
    """Images (3, size, size) in [0, 1] and the number of their class among ``classes``.

    Args:
        source: of images whose classes are told.
        size: side in pixels.
        classes: names of the classes; by default those that there are.
        augment: "crop", "flip".

    Raises:
        InputError: if there are fewer than two classes, or one that is none of those given.
    """

    def __init__(
        self, source: ImageSource, size: int, classes: Sequence[str] | None = None, augment: Sequence[str] = ()
    ) -> None:
        self.source, self.size = source, size
        told = source.labels(range(len(source)))
        if told is None:
            raise InputError(f"expected images with labels in {source.spec}, got them without; {_REMEDY}")
        self.classes = tuple(classes or told.classes or map(str, range(1 + max(map(int, told.names)))))
        if len(self.classes) < 2:
            found = f"all of {self.classes[0]!r}" if self.classes[0] else "in no folder of their own"
            raise InputError(f"expected images of two classes or more in {source.spec}, got them {found}; {_REMEDY}")
        strangers = sorted(set(told.names) - set(self.classes))
        if strangers:
            found = repr(strangers[0]) if strangers[0] else "images in no folder of their own"
            raise InputError(f"expected the classes of the training images in {source.spec}, got {found}")
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers[name] for name in told.names]
        changes: list[v2.Transform] = []
        if "crop" in augment:
            changes.append(v2.RandomCrop(size, padding=max(1, size // 8), padding_mode="edge"))
        if "flip" in augment:
            changes.append(v2.RandomHorizontalFlip())
        self.change = v2.Compose(changes) if changes else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = fit(self.source.read(index), (self.size, self.size))
        if self.change is not None:
            image = self.change(image)
        return dequantize(image), self.labels[index]


class Outliers:
    """Images that are no class's, drawn at random; attacked ones are added as they are found.

    Args:
        sources: of images.
        size: side in pixels.
        hold_out: whether those at odd places are kept from training, to measure with.
    """

    def __init__(self, sources: Sequence[ImageSource], size: int, *, hold_out: bool = False) -> None:
        self.sources, self.size = sources, size
        self.found: list[Tensor] = []  # (N, 3, H, W) uint8
        count = sum(map(len, sources))
        self.trained = range(0, count, 2 if hold_out else 1)
        self.held_out = range(1, count, 2) if hold_out else range(0)

    def __len__(self) -> int:
        return sum(map(len, self.sources)) + sum(map(len, self.found))

    def get(self, index: int) -> Tensor:
        """Image number ``index``, (3, size, size) uint8: those of the sources first, then those that were added."""
        for source in self.sources:
            if index < len(source):
                return fit(source.read(index), (self.size, self.size))
            index -= len(source)
        for images in self.found:
            if index < len(images):
                return images[index]
            index -= len(images)
        raise IndexError(index)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3, size, size) in [0, 1]; half of them attacked ones, where there are any."""
        natural = sum(map(len, self.sources))
        places = torch.randint(len(self.trained), (count,), generator=generator)
        indices = torch.tensor([self.trained[i] for i in places.tolist()])
        if self.found:
            half = count // 2
            indices[:half] = natural + torch.randint(len(self) - natural, (half,), generator=generator)
        return dequantize(torch.stack([self.get(i) for i in indices.tolist()]))
