"""The images of an audit, and the classes of those that detectors are fitted to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import torch
from torch import Tensor

from oodattack.detectors import Classifier
from oodattack.errors import InputError
from oodattack.images import ImageSource, decode, evenly, fit, open_images, open_starts
from oodattack.pixels import dequantize


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

    Classes are folders. Their number is that of the network's class of the same name, or their place in sorted order
    where there are as many folders as classes; without either the network's own prediction stands in.

    Attributes:
        order: the folders in the order of the network's classes, where they are these.
        labelled: whether the classes are those of the folders.
        skipped: images that could not be decoded.
    """

    def __init__(self, source: ImageSource, classifier: Classifier, limit: int, batch_size: int) -> None:
        self.source, self.classifier, self.batch_size = source, classifier, batch_size
        self.chosen = evenly(len(source), limit)
        self.order = class_order(source.names, classifier)
        labels = class_numbers(source.names, self.order)
        self.labels = None if labels is None else torch.tensor([labels[i] for i in self.chosen])
        self.labelled = labels is not None
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


def class_order(names: Sequence[str], classifier: Classifier) -> Sequence[str] | None:
    """The folders of training images in the order of the network's classes; None where they are not its classes."""
    folders = {PurePath(name).parent.name for name in names}
    known = classifier.encoder.classes
    if known is not None and folders <= set(known):
        return known
    return sorted(folders) if len(folders) == classifier.classes else None


def class_numbers(names: Sequence[str], order: Sequence[str] | None) -> list[int] | None:
    """The class of each image, from the name of its folder; None where there is no order, or a folder is not in it.

    >>> class_numbers(["a/cat/1.png", "a/dog/1.png"], ["cat", "dog"])
    [0, 1]
    """
    folders = [PurePath(name).parent.name for name in names]
    if order is None or not set(folders) <= set(order):
        return None
    return [order.index(folder) for folder in folders]


def read_set(spec: str, name: str, limit: int, size: tuple[int, int], data_root: Path | None) -> ImageSet:
    """Images of a source, evenly spaced over all; those that cannot be decoded are left out, and told.

    Raises:
        InputError: if there is nothing to read.
    """
    source = open_images(spec, data_root=data_root)
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
        raise InputError(f"expected images in {spec}, got none that can be decoded; the first: {first}")
    return ImageSet(name, torch.stack(images), tuple(names), skipped)


def read_starts(specs: Sequence[str], count: int, size: tuple[int, int], seed: int) -> ImageSet:
    """The start of each of ``count`` attacks: the sources in turn, and within each its images in turn."""
    sources = [open_starts(spec, size=size, seed=seed) for spec in specs]
    found = [sources[i % len(sources)].get(i // len(sources)) for i in range(count)]
    return ImageSet("starts", torch.stack([image for _, image in found]), tuple(name for name, _ in found))


def from_pngs(name: str, pngs: Sequence[bytes], names: Sequence[str]) -> ImageSet:
    """Images decoded from PNG files."""
    return ImageSet(name, torch.stack([decode(png) for png in pngs]), tuple(names))
