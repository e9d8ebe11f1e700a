"""Which detectors there are for a network, and why the others are not."""

from collections.abc import Sequence
from dataclasses import dataclass

from oodattack.core.errors import InputError, did_you_mean
from oodattack.detectors.classifier import Classifier
from oodattack.detectors.detector import Detector
from oodattack.detectors.features import feature_detectors
from oodattack.detectors.layers import layer_detectors
from oodattack.detectors.logits import logit_detectors
from oodattack.detectors.perturbed import perturbing_detectors
from oodattack.detectors.rate import rate_detectors
from oodattack.detectors.shaping import shaping_detectors

NEVER = {
    "MCM": "compares images with texts: only for networks of images and texts (CLIP)",
    "WeightedEBO": "its weights are learned with the network, by VOS; without them it is EnergyBased",
}
MISSING = {
    "RankFeat": "the network has no feature maps whose mean is z",
    "MultiMahalanobis": "the network has no layers with feature maps",
    "Gram": "the network has no layers with feature maps",
    "NACUE": "the network has no layers with feature maps",
    "MCD": "the network has no dropout",
    "Rate": "the network is no variational information bottleneck",
}


@dataclass(frozen=True)
class Absent:
    """A detector that cannot be audited, and the reason."""

    name: str
    reason: str


def make_detectors(classifier: Classifier, names: Sequence[str] = ("all",)) -> tuple[dict[str, Detector], list[Absent]]:
    """All detectors of pytorch-ood 0.4 that fit image classifiers, or some of them, not yet fitted.

    Args:
        classifier: what they judge.
        names: which; ("all",) for every one.

    Returns:
        The detectors by name, and those that do not apply to this network.

    Raises:
        InputError: for a name that there is not.

    >>> from oodattack.encoders import load_encoder
    >>> found, absent = make_detectors(Classifier(load_encoder("python:tests.factories:tiny")))
    >>> len(found), [a.name for a in absent]
    (31, ['MCM', 'WeightedEBO', 'RankFeat', 'MCD', 'Rate'])
    """
    found: dict[str, Detector] = {
        **logit_detectors(classifier),
        **feature_detectors(classifier),
        **shaping_detectors(classifier),
        **perturbing_detectors(classifier),
        **layer_detectors(classifier),
        **rate_detectors(classifier),
    }
    reasons = NEVER | {name: reason for name, reason in MISSING.items() if name not in found}
    if tuple(names) == ("all",):
        return found, [Absent(name, reason) for name, reason in reasons.items()]
    everything = [*found, *reasons]
    for name in names:
        if name not in everything:
            hint = did_you_mean(name, everything)
            raise InputError(
                f"expected detectors as all or none alone, or names among {', '.join(everything)}, got {name!r}{hint}"
            )
    wanted = {name: found[name] for name in names if name in found}
    return wanted, [Absent(name, reasons[name]) for name in names if name in reasons]
