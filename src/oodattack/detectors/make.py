"""The type of the functions that make a detector for a subject."""

from collections.abc import Callable

from oodattack.detectors.base import Detector
from oodattack.detectors.subjects import Subject

Make = Callable[[Subject], Detector]
"""Makes a detector for a subject; raises `NotApplicableError` where the subject lacks what it needs."""
