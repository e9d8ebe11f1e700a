"""Which detectors apply to a subject, and why the others do not."""

from collections.abc import Sequence
from dataclasses import dataclass

from oodattack.core.errors import InputError, did_you_mean
from oodattack.detectors.base import Detector, NotApplicableError
from oodattack.detectors.features import feature_detectors
from oodattack.detectors.layers import layer_detectors
from oodattack.detectors.logits import logit_detectors
from oodattack.detectors.perturbed import perturbing_detectors
from oodattack.detectors.rate import rate_detectors
from oodattack.detectors.shaping import shaping_detectors
from oodattack.detectors.subjects import Subject

NEVER = {
    "MCM": "compares images with texts: only for networks of images and texts (CLIP)",
    "WeightedEBO": "its weights are learned with the network, by VOS; without them it is EnergyBased",
}


@dataclass(frozen=True)
class Absent:
    """A detector that is not audited, and the reason."""

    name: str
    reason: str


def make_detectors(subject: Subject, names: Sequence[str] = ("all",)) -> tuple[dict[str, Detector], list[Absent]]:
    """All detectors of pytorch-ood 0.4 that apply to a subject, or some of them, not yet fitted.

    Args:
        subject: what they are fitted on.
        names: which ones; ("all",) for every one.

    Returns:
        The detectors by name, those that the subject brings along first; and those that do not apply to it.

    Raises:
        InputError: for an unknown name.

    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_subject
    >>> found, absent = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")))
    >>> len(found), [a.name for a in absent]
    (31, ['MCM', 'WeightedEBO', 'RankFeat', 'MCD', 'Rate'])
    """
    makers = {
        **logit_detectors(),
        **feature_detectors(),
        **shaping_detectors(),
        **perturbing_detectors(),
        **layer_detectors(),
        **rate_detectors(),
    }
    own = subject.own_detectors()
    known = [*own, *makers, *NEVER]
    wanted = known if tuple(names) == ("all",) else list(names)
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(
                f"expected detectors as all or none alone, or names among {', '.join(known)}, got {name!r}{hint}"
            )
    found = {name: own[name] for name in wanted if name in own}
    absent = [Absent(name, NEVER[name]) for name in wanted if name in NEVER]
    for name in wanted:
        if name in makers:
            try:
                found[name] = makers[name](subject)
            except NotApplicableError as error:
                absent.append(Absent(name, str(error)))
    return found, absent
