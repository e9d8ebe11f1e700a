"""Your own detectors, by name. This is the only place that looks up their optional attributes."""

import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.draws import seeded_by
from oodattack.detectors.subjects import Subject
from oodattack.encoders.own import here_importable, import_function

REQUIRED = ("fit", "score", "reads")


class Own(Detector):
    """Any object with ``fit``, ``score`` and ``reads`` as a `Detector`, with those optional attributes that it has.

    Args:
        inner: the object.
        source: digest of its source code, see `Detector.source`.

    Raises:
        InputError: if a method is missing, `reading` cannot be part of a file name, or `draws` is not a number.
    """

    def __init__(self, inner: Any, source: str) -> None:
        missing = [name for name in REQUIRED if not callable(getattr(inner, name, None))]
        if missing:
            raise InputError(
                f"expected a detector with fit(loader), score(images) and reads(images), got {type(inner).__name__}"
                f" without {' and '.join(missing)}"
            )
        self.inner, self.source = inner, source
        for name in ("reading", "parts", "judge", "draws"):
            setattr(self, name, getattr(inner, name, getattr(Detector, name)))
        if self.reading is not None and re.fullmatch(r"[\w+-]+", str(self.reading)) is None:
            raise InputError(
                "expected the detector's reading to be a name of letters, digits, _, - and +, got"
                f" {self.reading!r}; rename it"
            )

        if self.draws is not None and (not isinstance(self.draws, int) or self.draws < 1):
            raise InputError(
                f"expected the detector's draws to be a whole number of at least 1, got {self.draws!r}; leave it out if"
                " the score is not random"
            )

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        self.inner.fit(loader)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`. A random score is computed image by image, with draws that depend on the image alone."""
        if self.draws is None:
            return self._score(images)
        found = []
        for image in torch.split(images, 1):
            with seeded_by(image):
                found.append(self._score(image))
        return torch.cat(found)

    def sample(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self._score(images) if self.judge is None else self.judge(self.reads(images))

    def _score(self, images: Tensor) -> Tensor:
        scores: Tensor = self.inner.score(images)
        return scores

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        values: Tensor = self.inner.reads(images)
        return values


def own_detector(spec: str, subject: Subject) -> Detector:
    """Make the detector that ``MODULE:FACTORY`` returns for a subject.

    Raises:
        NotApplicableError: if it needs something that the subject lacks.
        InputError: if the function does not exist, fails, or does not return a detector.

    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_subject
    >>> subject = make_subject(load_encoder("python:tests.factories:tiny"))
    >>> detector = own_detector("tests.factories:Norm", subject)
    >>> detector.judge, len(detector.source)
    (None, 64)
    """
    factory = import_function(spec)
    try:
        with here_importable():
            inner = factory(subject)
    except NotApplicableError:
        raise
    except Exception as error:
        raise InputError(f"expected {spec}(subject) to build a detector, got {error!r}") from error
    return Own(inner, _digest(factory))


def own_name(spec: str) -> str:
    """The name in tables and files of the detector that ``MODULE:FACTORY`` makes.

    >>> own_name("my.detectors:Centroid")
    'Centroid'
    """
    return re.sub(r"\W+", "-", spec.rpartition(":")[2])


def _digest(function: Callable[..., object]) -> str:
    """SHA-256 (hex) of the file that defines a factory: if the file changes, so may the detector."""
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):  # defined interactively
        source = repr(function)
    return hashlib.sha256(source.encode()).hexdigest()
