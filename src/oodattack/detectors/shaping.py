"""Detectors that reshape activations, run the rest of the network on them, and compute the energy of its logits."""

from functools import partial
from typing import Any

import torch
from pytorch_ood.detector import ASH, DICE, LTS, SCALE, VRA, RankFeat, ReAct
from torch import Tensor
from torch.nn.functional import normalize

from oodattack.detectors.adapted import Shaped, unshaped
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject, View

POWER_ITERATIONS = 8


def shaping_detectors() -> dict[str, Make]:
    """ReAct, DICE, ASH, SCALE, LTS and VRA on the pooled features, as in their papers or OpenOOD; RankFeat on maps.

    >>> list(shaping_detectors())[:3]
    ['ReAct', 'VRA', 'ASH']
    """
    kinds = {"ReAct": ReAct, "VRA": VRA, "ASH": ASH, "SCALE": SCALE}
    return {
        **{name: partial(_on_features, kind) for name, kind in kinds.items()},
        "LTS": lambda s: Shaped(LTS(None, s.head, detector=unshaped), s, s.features),
        # 90 % of the weights masked, the paper's setting for CIFAR.
        "DICE": lambda s: Shaped(DICE(None, s.head.weight, s.head.bias, p=0.9, detector=unshaped), s, s.features),
        "RankFeat": _rank_feature,
    }


def _on_features(kind: Any, subject: Subject) -> Shaped:
    return _shaped(kind, subject, subject.features)


class _WithoutFirst(Shaped):
    """RankFeat; the library's gradient is NaN where singular values are equal, as in flat images."""

    def reads(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner.head(_without_first(self.view(images)))
        return logits


def _rank_feature(subject: Subject) -> Shaped:
    plain = _shaped(RankFeat, subject, subject.maps)
    return _WithoutFirst(plain.inner, subject, plain.view)


def _without_first(maps: Tensor) -> Tensor:
    """Feature maps (B, C, h, w) without their first singular component.

    Its gradient is that of a few power iterations, which start at the singular vector.
    """
    matrix = maps.flatten(2)
    with torch.no_grad():
        vector = torch.linalg.svd(matrix, full_matrices=False).Vh[:, :1].transpose(1, 2)  # (B, h * w, 1)
    for _ in range(POWER_ITERATIONS):
        vector = normalize(matrix.transpose(1, 2) @ (matrix @ vector), dim=1)
    first: Tensor = matrix @ vector @ vector.transpose(1, 2)
    return maps - first.view_as(maps)


def _shaped(kind: Any, subject: Subject, view: View) -> Shaped:
    linear = subject.head

    def head(maps: Tensor) -> Tensor:
        logits: Tensor = linear(maps.mean((2, 3)))
        return logits

    return Shaped(kind(lambda maps: maps, head, detector=unshaped), subject, view)
