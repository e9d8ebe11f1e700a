"""Who judges: out-of-distribution detectors, those of pytorch-ood and your own."""

from oodattack.detectors.catalogue import Absent, make_detectors
from oodattack.detectors.classifier import Classifier
from oodattack.detectors.detector import Detector, Loader
from oodattack.detectors.own import own_detector, source_digest

__all__ = ["Absent", "Classifier", "Detector", "Loader", "make_detectors", "own_detector", "source_digest"]
