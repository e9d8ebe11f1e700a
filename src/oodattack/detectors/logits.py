"""Detectors that look at the logits."""

import torch
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
from torch import Tensor

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
    }
    found = {name: Adapted(detector, classifier, classifier.logits) for name, detector in inner.items()}
    return {**found, "OpenMax": _EachAlone(OpenMax(None), classifier, classifier.logits)}


class _EachAlone(Adapted):
    """OpenMax, which takes the distance to a class that nothing in a batch is predicted as for 0.

    With one row more for each class the scores of an image are the same in every batch.
    """

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.judge(self.view(images)).cpu().double()

    def judge(self, reads: Tensor) -> Tensor:
        """The score of these logits; the library gives it no gradient."""
        with torch.no_grad():
            classes = torch.eye(reads.shape[1]).to(reads)
            scores: Tensor = self.inner.predict_logits(torch.cat([reads, classes]))
            return scores[: len(reads)].to(reads.device)
