"""Detectors that reshape activations, run the rest of the network on them, and compute the energy of its logits."""

from functools import partial
from typing import Any

from pytorch_ood.detector import ASH, DICE, LTS, SCALE, VRA, RankFeat, ReAct
from torch import Tensor

from oodattack.detectors.adapted import Shaped, unshaped
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject, View


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
        "RankFeat": lambda s: _shaped(RankFeat, s, s.maps),
    }


def _on_features(kind: Any, subject: Subject) -> Shaped:
    return _shaped(kind, subject, subject.features)


def _shaped(kind: Any, subject: Subject, view: View) -> Shaped:
    linear = subject.head

    def head(maps: Tensor) -> Tensor:
        logits: Tensor = linear(maps.mean((2, 3)))
        return logits

    return Shaped(kind(lambda maps: maps, head, detector=unshaped), subject, view)
