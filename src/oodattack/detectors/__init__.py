"""Out-of-distribution detectors, both pytorch-ood's and your own, and the subjects that they are fitted on."""

from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.catalogue import Absent, make_detectors
from oodattack.detectors.ensemble import ENSEMBLE, Ensemble
from oodattack.detectors.own import Own, own_detector, own_name
from oodattack.detectors.subjects import (
    SHARED_VIEWS,
    BareEncoder,
    Classifier,
    ImageModel,
    ModelOfImages,
    Subject,
    make_subject,
)

__all__ = [
    "ENSEMBLE",
    "SHARED_VIEWS",
    "Absent",
    "BareEncoder",
    "Classifier",
    "Detector",
    "Ensemble",
    "ImageModel",
    "Loader",
    "ModelOfImages",
    "NotApplicableError",
    "Own",
    "Subject",
    "make_detectors",
    "make_subject",
    "own_detector",
    "own_name",
]
