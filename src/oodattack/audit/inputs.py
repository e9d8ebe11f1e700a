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
        train: in-distribution, to fit on.
        x_in: in-distribution, never fitted on.
        x_in_classes: the names of their classes; None if unknown.
        starts: one for each x_in.
        natural: OOD sets.
        digests: of what is read, by setting.
    """

    train: TrainImages
    x_in: ImageSet
    x_in_classes: tuple[str, ...] | None
    starts: ImageSet
    natural: Sequence[ImageSet]
    digests: Mapping[str, Any]

    @property
    def clean(self) -> dict[str, ImageSet]:
        """Every set that is scored without an attack, by name: x_in as "in", "starts", the natural ones."""
        return {"in": self.x_in, "starts": self.starts, **{images.name: images for images in self.natural}}

    def skipped(self) -> dict[str, Mapping[str, str]]:
        """Images that could not be decoded, with the reason, by set; sets without any are left out."""
        found = {"train": self.train.skipped, **{name: images.skipped for name, images in self.clean.items()}}
        return {name: skipped for name, skipped in found.items() if skipped}


def read_inputs(settings: AuditSettings, subject: Subject, batch_size: int) -> Inputs:
    """Open and read the images that the settings name.

    Args:
        settings: of the audit.
        subject: its input size is that of the images.
        batch_size: of the training images.

    Raises:
        InputError: if one of them cannot be read.
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
    """Names for tables: the last part of a path, or all of it where two are alike; never that of another set."""
    short = [Path(spec).name or spec for spec in specs]
    names = [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]
    return [f"{name} (natural)" if name in ("train", "in", "starts") else name for name in names]
