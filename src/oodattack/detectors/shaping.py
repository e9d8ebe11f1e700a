"""Detectors that reshape activations, run the rest of the network on them, and take the energy of its logits."""

from pytorch_ood.detector import ASH, DICE, LTS, SCALE, VRA, RankFeat, ReAct
from torch import Tensor

from oodattack.detectors.adapted import Shaped, unshaped
from oodattack.detectors.classifier import Classifier


def shaping_detectors(classifier: Classifier) -> dict[str, Shaped]:
    """ReAct, DICE, ASH, SCALE, LTS and VRA on the pooled features, as in their papers or OpenOOD; RankFeat on maps.

    >>> from oodattack.encoders import load_encoder
    >>> list(shaping_detectors(Classifier(load_encoder("python:tests.factories:tiny"))))[:3]
    ['ReAct', 'VRA', 'ASH']
    """
    linear = classifier.head

    def head(maps: Tensor) -> Tensor:
        logits: Tensor = linear(maps.mean((2, 3)))
        return logits

    kinds = {"ReAct": ReAct, "VRA": VRA, "ASH": ASH, "SCALE": SCALE}
    inner = {name: kind(lambda maps: maps, head, detector=unshaped) for name, kind in kinds.items()}
    inner["LTS"] = LTS(None, linear, detector=unshaped)
    # 90 % of the weights masked, the paper's setting for CIFAR.
    inner["DICE"] = DICE(None, linear.weight, linear.bias, p=0.9, detector=unshaped)
    found = {name: Shaped(detector, classifier, classifier.features) for name, detector in inner.items()}
    if classifier.maps is not None:
        found["RankFeat"] = Shaped(RankFeat(lambda maps: maps, head, detector=unshaped), classifier, classifier.maps)
    return found
