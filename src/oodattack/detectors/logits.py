"""Detectors that look at the logits."""

from pytorch_ood.detector import (
    GEN,
    EnergyBased,
    Entropy,
    KLMatching,
    MaxLogit,
    MaxSoftmax,
    OpenMax,
    TemperatureScaling,
)

from oodattack.detectors.adapted import Adapted
from oodattack.detectors.classifier import Classifier


def logit_detectors(classifier: Classifier) -> dict[str, Adapted]:
    """MaxSoftmax (Hendrycks & Gimpel 2017, the paper's [2]) and what came after it.

    >>> from oodattack.encoders import load_encoder
    >>> list(logit_detectors(Classifier(load_encoder("python:tests.factories:tiny"))))[:3]
    ['MaxSoftmax', 'MaxLogit', 'EnergyBased']
    """
    inner = {
        "MaxSoftmax": MaxSoftmax(None),
        "MaxLogit": MaxLogit(None),
        "EnergyBased": EnergyBased(None),
        "Entropy": Entropy(None),
        "GEN": GEN(None),
        "KLMatching": KLMatching(None),
        "TemperatureScaling": TemperatureScaling(None),
        "OpenMax": OpenMax(None),
    }
    return {name: Adapted(detector, classifier, classifier.logits) for name, detector in inner.items()}
