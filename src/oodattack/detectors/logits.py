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

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        logits = self.view(images)
        scores: Tensor = self.inner.predict_logits(torch.cat([logits, torch.eye(logits.shape[1]).to(logits)]))
        return scores[: len(logits)].cpu().double()

    def judge(self, reads: Tensor) -> Tensor:
        """The same in torch, with a gradient (Bendale & Boult 2016, Algorithm 2).

        The library shifts distances by 10000 before it fits a Weibull distribution to them, so that its scale is
        close to 10000 and its shape large; `log1p` keeps the digits of the distance itself.
        """
        fit = self.inner._openmax
        count = reads.shape[1]
        place = reads.argsort(dim=1, descending=True).argsort(dim=1)
        ranked = (1 - place.to(reads) / fit.alpha).clamp_min(0)
        outside = []
        for number in range(count):
            if number not in fit.distributions:  # no training image has this class
                outside.append(torch.ones_like(reads[:, 0]))
                continue
            weibull = fit.distributions[number]
            away = (reads - torch.as_tensor(fit.centers[number]).to(reads)).norm(dim=1)
            offset = weibull.translation - weibull.min_val - weibull.scale
            exponent = weibull.c * torch.log1p((away + offset) / weibull.scale)
            outside.append(-torch.expm1(-exponent.exp()))
        kept = reads * (1 - torch.stack(outside, dim=1) * ranked)
        unknown = (reads - kept).sum(1, keepdim=True)
        return torch.cat([unknown, kept], dim=1).clamp_max(709).softmax(1)[:, 0]
