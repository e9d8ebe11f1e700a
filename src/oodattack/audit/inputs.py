"""The images that an audit's settings name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from oodattack.audit.data import ImageSet, TrainImages, read_set, read_starts
from oodattack.core.errors import InputError
from oodattack.detectors import Subject
from oodattack.images import open_images, open_starts
from oodattack.settings.audit import AuditSettings


@dataclass(frozen=True)
class Inputs:
    """The images of an audit.

    Attributes:
        train: in-distribution images to fit on.
        x_in: in-distribution images that are never fitted on.
        x_in_classes: names of the classes of x_in; None if unknown.
        starts: one start for each x_in.
        natural: sets of natural OOD images.
        digests: digests of the images, by setting.
    """

    train: TrainImages
    x_in: ImageSet
    x_in_classes: tuple[str, ...] | None
    starts: ImageSet
    natural: Sequence[ImageSet]
    digests: Mapping[str, Any]

    @property
    def clean(self) -> dict[str, ImageSet]:
        """Every set that is scored without an attack, by name: "in" (x_in), "starts", and the natural sets."""
        return {"in": self.x_in, "starts": self.starts, **{images.name: images for images in self.natural}}

    def skipped(self) -> dict[str, Mapping[str, str]]:
        """Images that could not be decoded, with the reason, by set; sets without such images are omitted."""
        found = {"train": self.train.skipped, **{name: images.skipped for name, images in self.clean.items()}}
        return {name: skipped for name, skipped in found.items() if skipped}


def read_inputs(settings: AuditSettings, subject: Subject, batch_size: int) -> Inputs:
    """Open and read the images that the settings name.

    Args:
        settings: the settings of the audit.
        subject: the subject; images are resized to its input size.
        batch_size: number of training images per batch.

    Raises:
        InputError: if one of the collections cannot be read.
    """
    size = subject.encoder.input_size
    open_set = partial(open_images, data_root=settings.data_root, download=settings.download)
    train, test = open_set(settings.train), open_set(settings.test)
    starts = [
        open_starts(spec, size=size, seed=settings.seed, data_root=settings.data_root, download=settings.download)
        for spec in settings.start
    ]
    x_in = read_set(test, "in", settings.limit, size)
    if len(x_in.names) < 2:
        raise InputError(f"expected at least 2 images in {settings.test}, got {len(x_in.names)}")
    places = {name: index for index, name in enumerate(test.names)}
    labels = test.labels([places[name] for name in x_in.names])
    names = _short_names(settings.ood)
    return Inputs(
        train=TrainImages(train, subject, settings.fit_limit, batch_size),
        x_in=x_in,
        x_in_classes=None if labels is None else labels.names,
        starts=read_starts(starts, len(x_in.names)),
        natural=[
            read_set(open_set(spec), name, settings.ood_limit, size)
            for spec, name in zip(settings.ood, names, strict=True)
        ],
        digests={
            "train": train.digest(),
            "test": test.digest(),
            "start": [source.digest() for source in starts],
        },
    )


def _short_names(specs: Sequence[str]) -> list[str]:
    """Names for tables: the last part of each path, or the whole path if two are equal; never that of another set."""
    short = [Path(spec).name or spec for spec in specs]
    names = [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]
    return [f"{name} (natural)" if name in ("train", "in", "starts") else name for name in names]
