"""A detector of the user's own, by name."""

import hashlib
import inspect
import re
from collections.abc import Callable

from oodattack.core.errors import InputError
from oodattack.detectors.classifier import Classifier
from oodattack.detectors.detector import Detector
from oodattack.encoders.own import here_importable, import_function


def own_detector(spec: str, classifier: Classifier) -> tuple[str, Detector]:
    """The detector that ``MODULE:FACTORY`` makes for a classifier, and its name, the factory's.

    Raises:
        InputError: if there is no such function, or it fails, or what it returns lacks a method.

    >>> from oodattack.encoders import load_encoder
    >>> c = Classifier(load_encoder("python:tests.factories:tiny"))
    >>> name, detector = own_detector("tests.factories:Norm", c)
    >>> name, isinstance(detector, Detector)
    ('Norm', True)
    """
    factory = import_function(spec)
    try:
        with here_importable():
            detector = factory(classifier)
    except Exception as error:
        raise InputError(f"expected {spec}(classifier) to build a detector, got {error!r}") from error
    lacking = [name for name in ("fit", "score", "reads") if not callable(getattr(detector, name, None))]
    if lacking:
        raise InputError(
            f"expected {spec} to return a detector with fit(loader), score(images) and reads(images), got"
            f" {type(detector).__name__} without {' and '.join(lacking)}"
        )
    return re.sub(r"\W+", "-", spec.rpartition(":")[2]), detector


def source_digest(spec: str) -> str:
    """SHA-256 (hex) over the file that a detector's factory is in: another one means another detector.

    >>> len(source_digest("tests.factories:Norm"))
    64
    """
    return _digest(import_function(spec))


def _digest(function: Callable[..., object]) -> str:
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):  # made in a console
        source = repr(function)
    return hashlib.sha256(source.encode()).hexdigest()
