"""Images to train on."""

from collections.abc import Sequence
from pathlib import PurePath

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from oodattack.errors import InputError
from oodattack.images import ImageSource, fit, open_images
from oodattack.pixels import dequantize


class Labelled(Dataset[tuple[Tensor, int]]):
    """Images (3, size, size) in [0, 1] and the number of their folder among ``classes``.

    Args:
        spec: what to open.
        size: side in pixels.
        classes: names of the folders; by default those that there are, sorted.
        augment: "crop", "flip".

    Raises:
        InputError: if there are fewer than two classes, or a folder that is none of them.
    """

    def __init__(self, spec: str, size: int, classes: Sequence[str] | None = None, augment: Sequence[str] = ()) -> None:
        self.source = open_images(spec)
        self.size = size
        folders = [PurePath(name).parent.name for name in self.source.names]
        self.classes = tuple(sorted(set(folders))) if classes is None else tuple(classes)
        if len(self.classes) < 2:
            found = f"all in the folder {folders[0]}" if folders[0] else "in no folder of their own"
            raise InputError(f"expected images in one folder a class in {spec}, got them {found}")
        strangers = sorted(set(folders) - set(self.classes))
        if strangers:
            found = repr(strangers[0]) if strangers[0] else "images in no folder of their own"
            raise InputError(f"expected the folders of the training images in {spec}, got {found}")
        self.labels = [self.classes.index(folder) for folder in folders]
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
        specs: what to open.
        size: side in pixels.
        hold_out: whether those at odd places are kept from training, to measure with.
    """

    def __init__(self, specs: Sequence[str], size: int, *, hold_out: bool = False) -> None:
        self.sources: list[ImageSource] = [open_images(spec) for spec in specs]
        self.size = size
        self.found: list[Tensor] = []  # (N, 3, H, W) uint8
        count = sum(map(len, self.sources))
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
