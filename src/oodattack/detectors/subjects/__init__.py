"""Subjects: what detectors are fitted on and attacked through."""

from oodattack.detectors.subjects.bare import BareEncoder
from oodattack.detectors.subjects.classifier import Classifier
from oodattack.detectors.subjects.make import make_subject
from oodattack.detectors.subjects.model import ImageModel, ModelOfImages
from oodattack.detectors.subjects.subject import SHARED_VIEWS, Subject
from oodattack.detectors.subjects.view import View

__all__ = [
    "SHARED_VIEWS",
    "BareEncoder",
    "Classifier",
    "ImageModel",
    "ModelOfImages",
    "Subject",
    "View",
    "make_subject",
]
