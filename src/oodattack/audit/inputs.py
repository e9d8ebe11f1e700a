"""What an audit works on: the images, and who judges them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from oodattack.attacks.attacks import VIEWS
from oodattack.audit.data import ImageSet, TrainImages, read_set, read_starts
from oodattack.core.errors import InputError
from oodattack.detectors import Absent, Classifier, Detector, make_detectors, own_detector, source_digest
from oodattack.images import open_images, open_starts
from oodattack.settings.audit import AuditSettings


@dataclass(frozen=True)
class Inputs:
    """The images of an audit.

    Attributes:
        train: in-distribution, to fit on.
        x_in: in-distribution, never fitted on.
        x_in_classes: the names of their classes; None where they are not told.
        starts: one for each x_in.
        natural: OOD sets.
        digests: of what there is to read, by setting.
    """

    train: TrainImages
    x_in: ImageSet
    x_in_classes: tuple[str, ...] | None
    starts: ImageSet
    natural: Sequence[ImageSet]
    digests: dict[str, Any]


def read_inputs(settings: AuditSettings, classifier: Classifier, batch_size: int) -> Inputs:
    """Open and read the images that the settings name.

    Raises:
        InputError: if one of them cannot be read.
    """
    size = classifier.encoder.input_size
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
    told = test.labels([places[name] for name in x_in.names])
    names = _short_names(settings.ood)
    natural = [
        read_set(open_set(spec), name, settings.ood_limit, size) for spec, name in zip(settings.ood, names, strict=True)
    ]
    return Inputs(
        TrainImages(train, classifier, settings.fit_limit, batch_size),
        x_in,
        None if told is None else told.names,
        read_starts(starts, len(x_in.names)),
        natural,
        {
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


def find_detectors(
    settings: AuditSettings, classifier: Classifier
) -> tuple[dict[str, Detector], dict[str, str], list[Absent]]:
    """Those of pytorch-ood that were asked for, and the user's own, not yet fitted.

    Returns:
        All detectors by name; of the user's own the digest of their source; and those that do not apply.

    Raises:
        InputError: for a name that there is not, a name used twice, or if none is left.
    """
    names = () if settings.detectors == ("none",) else settings.detectors
    found, absent = make_detectors(classifier, names) if names else ({}, [])
    own = {}
    for spec in settings.detector:
        name, detector = own_detector(spec, classifier)
        what = getattr(detector, "reading", name)
        if not isinstance(what, str) or re.fullmatch(r"[\w+-]+", what) is None:
            raise InputError(f"expected reading of {spec} as a name of letters, digits, _, - and +, got {what!r}")
        if name in (*found, *VIEWS):
            raise InputError(f"expected a detector's own name for {spec}, got {name}, which there is; rename it")
        found[name], own[name] = detector, source_digest(spec)
    if not found:
        reasons = "; ".join(f"{a.name}: {a.reason}" for a in absent) or "no detector was named"
        raise InputError(f"expected a detector that applies to {classifier.encoder.name}, got none ({reasons})")
    return found, own, absent
