"""The catalogue of detectors: which of them apply to a subject, and why the others do not."""

from collections.abc import Sequence
from dataclasses import dataclass

from oodattack.core.errors import InputError, did_you_mean
from oodattack.detectors.base import Detector, NotApplicableError
from oodattack.detectors.features import feature_detectors
from oodattack.detectors.layers import layer_detectors
from oodattack.detectors.likelihood import ImageModels, likelihood_detectors
from oodattack.detectors.likelihood.feature_flow import feature_flow_detectors
from oodattack.detectors.logits import logit_detectors
from oodattack.detectors.make import Make
from oodattack.detectors.perturbed import perturbing_detectors
from oodattack.detectors.rate import rate_detectors
from oodattack.detectors.shaping import shaping_detectors
from oodattack.detectors.subjects import Subject

NEVER = {
    "MCM": "it compares images with texts, and needs a network for both (CLIP)",
    "WeightedEBO": "its weights are learned together with the network, by VOS; without them it is EnergyBased",
}


@dataclass(frozen=True)
class Absent:
    """A detector that is not audited, and the reason."""

    name: str
    reason: str


def make_detectors(
    subject: Subject, names: Sequence[str] = ("all",), models: ImageModels | None = None, dequantise: int = 0
) -> tuple[dict[str, Detector], list[Absent]]:
    """Make the detectors of pytorch-ood 0.4 that apply to a subject, its own, and those on densities; none is fitted.

    Args:
        subject: the subject that they are fitted on.
        names: names of the detectors to make; ("all",) makes every detector, those on models of images only if there
            are such models.
        models: trained models of images.
        dequantise: see `oodattack.detectors.likelihood.likelihood_detectors`.

    Returns:
        The detectors by name, beginning with the subject's own; and those that do not apply to it, with the reason.

    Raises:
        InputError: for an unknown name.

    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_subject
    >>> found, absent = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")))
    >>> len(found), [a.name for a in absent]
    (32, ['MCM', 'WeightedEBO', 'RankFeat', 'MCD', 'Rate'])
    """
    models = models or ImageModels()
    on_models = likelihood_detectors(models, dequantise)
    makers: dict[str, Make] = {
        **logit_detectors(),
        **feature_detectors(),
        **shaping_detectors(),
        **perturbing_detectors(),
        **layer_detectors(),
        **rate_detectors(),
        **feature_flow_detectors(),
        **on_models,
    }
    own = subject.own_detectors()
    known = [*own, *makers, *NEVER]
    everything = [name for name in known if models.named() or name not in on_models]
    wanted = everything if tuple(names) == ("all",) else list(names)
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
