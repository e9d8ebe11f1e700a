"""Detectors that read the logits."""

from functools import partial
from typing import Any

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
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject


def logit_detectors() -> dict[str, Make]:
    """MaxSoftmax (Hendrycks & Gimpel 2017, the paper's [2]) and its successors.

    >>> list(logit_detectors())[:3]
    ['MaxSoftmax', 'MaxLogit', 'EnergyBased']
    """
    kinds = {
        "MaxSoftmax": MaxSoftmax,
        "MaxLogit": MaxLogit,
        "EnergyBased": EnergyBased,
        "Entropy": Entropy,
        "GEN": GEN,
        "KLMatching": KLMatching,
        "TemperatureScaling": TemperatureScaling,
    }
    found: dict[str, Make] = {name: partial(_on_logits, kind) for name, kind in kinds.items()}
    return {**found, "OpenMax": lambda subject: _EachAlone(OpenMax(None), subject, subject.logits)}


def _on_logits(kind: Any, subject: Subject) -> Adapted:
    return Adapted(kind(None), subject, subject.logits)


class _EachAlone(Adapted):
    """OpenMax with scores that do not depend on the batch.

    The library takes the distance to a class as 0 if no image of the batch is predicted as that class. Appending one
    row for each class gives an image the same score in every batch.
    """

    def score(self, images: Tensor) -> Tensor:
        return self.judge(self.view(images)).cpu().double()

    def judge(self, reads: Tensor) -> Tensor:
        """The score (B,) of these logits; the library's formula has no gradient."""
        with torch.no_grad():
            classes = torch.eye(reads.shape[1]).to(reads)
            scores: Tensor = self.inner.predict_logits(torch.cat([reads, classes]))
            return scores[: len(reads)].to(reads.device)
