"""The images of an audit, and the classes of its training images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import Subject
from oodattack.images import ImageSource, decode, evenly, fit


def in_turn(values: Tensor, count: int) -> Tensor:
    """``count`` rows: those of ``values`` in turn, again from the first after the last, as attacks take their starts.

    >>> in_turn(torch.tensor([7, 8]), 3).tolist()
    [7, 8, 7]
    """
    return values[torch.arange(count) % len(values)]


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Attributes:
        name: the name of the set in tables.
        images: (N, 3, H, W) uint8.
        names: file names.
        skipped: images that could not be decoded, with the reason.
    """

    name: str
    images: Tensor
    names: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def cycled(self, count: int) -> "ImageSet":
        """``count`` images: these in turn, again from the first after the last.

        >>> ImageSet("a", torch.zeros(2, 3, 1, 1, dtype=torch.uint8), ("x", "y")).cycled(3).names
        ('x', 'y', 'x')
        """
        places = in_turn(torch.arange(len(self.names)), count)
        return ImageSet(self.name, self.images[places], tuple(self.names[i] for i in places.tolist()))

    def rows(self, rows: range, device: torch.device) -> Tensor:
        """The images of some rows, (B, 3, H, W) in [0, 1]."""
        return dequantize(self.images[rows.start : rows.stop]).to(device)

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """All images, in batches (B, 3, H, W) in [0, 1] of at most ``size``."""
        for part in torch.split(self.images, size):
            yield dequantize(part).to(device)


class TrainImages:
    """Images and classes to fit on, decoded again in every pass; a `oodattack.detectors.Loader`.

    Classes are folders, or the labels of a data set, numbered in the order that the subject gives them
    (`Subject.class_order`). If there are no usable classes, the subject supplies others (`Subject.guess`).

    Args:
        source: the images.
        subject: supplies the input size, the device, and the order of the classes.
        limit: maximum number of images; if the source has more, they are evenly spaced.
        batch_size: number of images per batch.

    Attributes:
        order: names of the classes in the order of their numbers; None if they are not usable.
        labelled: whether the classes are those of the source.
        skipped: images that could not be decoded, with the reason.
    """

    def __init__(self, source: ImageSource, subject: Subject, limit: int, batch_size: int) -> None:
        self.source, self.subject, self.batch_size = source, subject, batch_size
        self.chosen = evenly(len(source), limit)
        labels = source.labels(self.chosen)
        self.order = None if labels is None else subject.class_order(labels)
        numbers = None if labels is None else class_numbers(labels.names, self.order)
        self.labels = None if numbers is None else torch.tensor(numbers)
        self.labelled = numbers is not None
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self.chosen), self.batch_size):
            images, kept = [], []
            for place in range(first, min(first + self.batch_size, len(self.chosen))):
                index = self.chosen[place]
                try:
                    images.append(fit(self.source.read(index), self.subject.encoder.input_size))
                    kept.append(place)
                except InputError as error:
                    self.skipped[self.source.names[index]] = str(error)
            if not images:
                continue
            batch = dequantize(torch.stack(images)).to(self.subject.device)
            yield batch, self.subject.guess(batch) if self.labels is None else self.labels[kept]


def class_numbers(names: Sequence[str] | None, order: Sequence[str] | None) -> list[int] | None:
    """The number of each image's class; None if there are no classes, no order, or a name that the order lacks.

    >>> class_numbers(["dog", "cat"], ["cat", "dog"])
    [1, 0]
    """
    if names is None or order is None or not set(names) <= set(order):
        return None
    return [order.index(name) for name in names]


def read_set(source: ImageSource, name: str, chosen: Sequence[int], size: tuple[int, int]) -> ImageSet:
    """Read some images of a source; those that cannot be decoded are recorded as skipped.

    Args:
        source: the images.
        name: the name of the set.
        chosen: indices of the images to read.
        size: (h, w) to which they are resized.

    Raises:
        InputError: if none can be decoded.
    """
    images, names = [], []
    skipped: dict[str, str] = {}
    for index in chosen:
        try:
            images.append(fit(source.read(index), size))
            names.append(source.names[index])
        except InputError as error:
            skipped[source.names[index]] = str(error)
    if not images:
        first = next(iter(skipped.values()), "it is empty")
        raise InputError(f"expected images in {source.spec}, got none that can be decoded; the first: {first}")
    return ImageSet(name, torch.stack(images), tuple(names), skipped)


def from_pngs(name: str, pngs: Sequence[bytes], names: Sequence[str]) -> ImageSet:
    """Images decoded from PNG files."""
    return ImageSet(name, torch.stack([decode(png) for png in pngs]), tuple(names))
