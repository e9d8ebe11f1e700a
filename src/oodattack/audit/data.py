"""The images of an audit, and the classes of those that detectors are fitted to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier
from oodattack.images import ImageSource, StartSource, decode, evenly, fit
from oodattack.images.labels import Labels


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Attributes:
        name: what the tables call it.
        images: (N, 3, H, W) uint8.
        names: of the files.
        skipped: those that could not be decoded, with the reason.
    """

    name: str
    images: Tensor
    names: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def batches(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """Images (B, 3, H, W) in [0, 1]."""
        for part in torch.split(self.images, size):
            yield dequantize(part).to(device)


class TrainImages:
    """Images and classes to fit on, read again with every pass; see `oodattack.detectors.Loader`.

    Classes are folders, or what a data set tells. Their number is that of the network's class of the same name, or
    their own where the network has as many; without either the network's own prediction stands in.

    Attributes:
        order: the names of the classes in the order of the network's, where they are these.
        labelled: whether the classes are those of the source.
        skipped: images that could not be decoded.
    """

    def __init__(self, source: ImageSource, classifier: Classifier, limit: int, batch_size: int) -> None:
        self.source, self.classifier, self.batch_size = source, classifier, batch_size
        self.chosen = evenly(len(source), limit)
        told = source.labels(self.chosen)
        self.order = None if told is None else class_order(told, classifier)
        numbers = None if told is None else class_numbers(told.names, self.order)
        self.labels = None if numbers is None else torch.tensor(numbers)
        self.labelled = numbers is not None
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size, device = self.classifier.encoder.input_size, self.classifier.encoder.mean.device
        for first in range(0, len(self.chosen), self.batch_size):
            places = range(first, min(first + self.batch_size, len(self.chosen)))
            found, kept = [], []
            for place in places:
                index = self.chosen[place]
                try:
                    found.append(fit(self.source.read(index), size))
                    kept.append(place)
                except InputError as error:
                    self.skipped[self.source.names[index]] = str(error)
            if not found:
                continue
            images = dequantize(torch.stack(found)).to(device)
            if self.labels is None:
                with torch.no_grad():
                    yield images, self.classifier.logits(images).argmax(1).cpu()
            else:
                yield images, self.labels[kept]


def class_order(labels: Labels, classifier: Classifier) -> Sequence[str] | None:
    """The names of training images' classes in the order of the network's; None where they are not its classes."""
    known = classifier.encoder.classes
    if known is not None and set(labels.classes or labels.names) <= set(known):
        return known
    order = labels.classes or [str(number) for number in range(classifier.classes)]
    return order if len(order) == classifier.classes and set(labels.names) <= set(order) else None


def class_numbers(names: Sequence[str] | None, order: Sequence[str] | None) -> list[int] | None:
    """The number of each image's class; None where classes are not told, there is no order, or a name is not in it.

    >>> class_numbers(["dog", "cat"], ["cat", "dog"])
    [1, 0]
    """
    if names is None or order is None or not set(names) <= set(order):
        return None
    return [order.index(name) for name in names]


def read_set(source: ImageSource, name: str, limit: int, size: tuple[int, int]) -> ImageSet:
    """Images of a source, evenly spaced over all; those that cannot be decoded are left out, and told.

    Raises:
        InputError: if there is nothing to read.
    """
    images, names = [], []
    skipped: dict[str, str] = {}
    for index in evenly(len(source), limit):
        try:
            images.append(fit(source.read(index), size))
            names.append(source.names[index])
        except InputError as error:
            skipped[source.names[index]] = str(error)
    if not images:
        first = next(iter(skipped.values()))
        raise InputError(f"expected images in {source.spec}, got none that can be decoded; the first: {first}")
    return ImageSet(name, torch.stack(images), tuple(names), skipped)


def read_starts(sources: Sequence[StartSource], count: int) -> ImageSet:
    """The start of each of ``count`` attacks: the sources in turn, and within each its images in turn."""
    found = [sources[i % len(sources)].get(i // len(sources)) for i in range(count)]
    return ImageSet("starts", torch.stack([image for _, image in found]), tuple(name for name, _ in found))


def from_pngs(name: str, pngs: Sequence[bytes], names: Sequence[str]) -> ImageSet:
    """Images decoded from PNG files."""
    return ImageSet(name, torch.stack([decode(png) for png in pngs]), tuple(names))
