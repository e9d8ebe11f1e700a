"""The images that an audit's settings name."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, count
from pathlib import Path

import torch

from oodattack.auditing.data import ImageSet, TrainImages, read_set
from oodattack.core.errors import InputError
from oodattack.detectors import Subject
from oodattack.images import ImageSource, digest, open_images, open_starts, shuffled
from oodattack.images.generated import generate
from oodattack.images.starts import ManyStarts
from oodattack.settings.audit import AuditSettings

TRAIN, IN, TARGETS = "train", "in", "targets"
IN_DISTRIBUTION = (IN, TARGETS, TRAIN)  # names of the sets of in-distribution images; no set of starts may have them


@dataclass(frozen=True)
class Inputs:
    """The images of an audit.

    Attributes:
        train: in-distribution images to fit on.
        inside: in-distribution images that are neither fitted on nor attacked; they set the thresholds.
        inside_classes: names of their classes; None if unknown.
        targets: x_in, the in-distribution images that attacked images imitate; one per row of an attack.
        sets: sets of OOD images, by name; attacks start from each.
        contents: by the name of a set, "train" among them, a function that returns a digest of its images' contents.
    """

    train: TrainImages
    inside: ImageSet
    inside_classes: tuple[str, ...] | None
    targets: ImageSet
    sets: Mapping[str, ImageSet]
    contents: Mapping[str, Callable[[], str]]

    @property
    def clean(self) -> dict[str, ImageSet]:
        """Every set that is scored without an attack, by name: "in" (held out), "targets" (x_in), and those of OOD."""
        return {IN: self.inside, TARGETS: self.targets, **self.sets}

    @cached_property
    def starts(self) -> dict[str, ImageSet]:
        """By set, the start of each row of the attacks from it: its images in turn."""
        return {name: images.cycled(len(self.targets.names)) for name, images in self.sets.items()}

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Digests of the contents of some sets, by name; see `oodattack.images.digest`."""
        return {name: self.contents[name]() for name in names}

    def skipped(self) -> dict[str, Mapping[str, str]]:
        """Images that could not be decoded, with the reason, by set; sets without such images are omitted."""
        found = {TRAIN: self.train.skipped, **{name: images.skipped for name, images in self.clean.items()}}
        return {name: skipped for name, skipped in found.items() if skipped}


def read_inputs(settings: AuditSettings, subject: Subject, batch_size: int) -> Inputs:
    """Open and read the images that the settings name; which of them are used depends on the seed.

    Args:
        settings: the settings of the audit.
        subject: the subject; images are resized to its input size.
        batch_size: number of training images per batch.

    Raises:
        InputError: if one of the collections cannot be read.
    """
    open_set = partial(open_images, data_root=settings.data_root, download=settings.download)
    specs = [*settings.start, *settings.ood]
    sets = dict(zip(_names(specs), specs, strict=True))
    return choose_inputs(settings, subject, batch_size, open_set(settings.train), open_set(settings.test), sets)


def choose_inputs(
    settings: AuditSettings,
    subject: Subject,
    batch_size: int,
    train: ImageSource,
    test: ImageSource,
    starts: Mapping[str, str | ImageSource],
) -> Inputs:
    """Choose images of opened collections, and read them; which of them are used depends on the seed.

    Args:
        settings: the settings of the audit.
        subject: the subject; images are resized to its input size.
        batch_size: number of training images per batch.
        train: in-distribution images to fit on.
        test: in-distribution images, some of which are attacked and others held out.
        starts: the sets of starts by name: opened, or as in ``settings.start``.

    Raises:
        InputError: if one of the collections has too few images that can be decoded.
    """
    size = subject.encoder.input_size
    if len(test) < 4:
        raise InputError(f"expected at least 4 images in {test.spec}, half of them held out, got {len(test)}")
    order = shuffled(len(test), settings.seed)
    attacked = min(settings.limit, len(test) // 2)
    targets = read_set(test, TARGETS, order[:attacked], size)
    inside = read_set(test, IN, order[attacked : attacked + settings.held_out], size)
    places = {name: index for index, name in enumerate(test.names)}
    labels = test.labels([places[name] for name in inside.names])
    fitted = TrainImages(train, subject, settings.fit_limit, batch_size)
    read = {name: _read_starts(settings, spec, name, size) for name, spec in starts.items()}
    return Inputs(
        train=fitted,
        inside=inside,
        inside_classes=None if labels is None else labels.names,
        targets=targets,
        sets={name: images for name, (images, _) in read.items()},
        contents={
            TRAIN: partial(digest, train, fitted.chosen),
            IN: partial(digest, test, order[attacked : attacked + settings.held_out]),
            TARGETS: partial(digest, test, order[:attacked]),
            **{name: content for name, (_, content) in read.items()},
        },
    )


def _read_starts(
    settings: AuditSettings, starts: str | ImageSource, name: str, size: tuple[int, int]
) -> tuple[ImageSet, Callable[[], str]]:
    """A set of starts, and a function that returns the digest of their contents.

    At most ``ood_limit`` images of a collection, or as many generated ones that differ.
    """
    if not isinstance(starts, str):
        chosen = shuffled(len(starts), settings.seed)[: settings.ood_limit]
        return read_set(starts, name, chosen, size), partial(digest, starts, chosen)
    spec = starts
    opened = open_starts(spec, size=size, seed=settings.seed, data_root=settings.data_root, download=settings.download)
    if isinstance(opened, ManyStarts):
        return _read_starts(settings, opened.source, name, size)
    label, image = opened.get(0)
    images = [image]
    for number in range(1, settings.ood_limit):
        another = generate(spec, size, settings.seed + number)
        if another is None or torch.equal(another, image):
            break  # a file, or a picture without random draws
        images.append(another)
    names = [label] + [f"{label} {number}" for number in range(1, len(images))]
    found = ImageSet(name, torch.stack(images), tuple(names))
    return found, lambda: hashlib.sha256(found.images.numpy().tobytes()).hexdigest()


def _names(specs: Sequence[str]) -> list[str]:
    """Names of sets for tables and folders: the last part of each path, with a number if another set has it already.

    >>> _names(["scans/a", "noise:gaussian", "ood/mnist-2", "mnist", "more/mnist", "in"])
    ['a', 'noise-gaussian', 'mnist-2', 'mnist', 'mnist-3', 'in-2']
    """
    found = list(IN_DISTRIBUTION)
    for spec in specs:
        path = Path(spec)
        name = path.stem if path.suffix and path.is_file() else path.name
        short = re.sub(r"[^\w.+-]+", "-", name or spec).strip("-.") or "set"
        numbered = (f"{short}-{number}" for number in count(2))
        found.append(next(free for free in chain([short], numbered) if free not in found))
    return found[len(IN_DISTRIBUTION) :]
