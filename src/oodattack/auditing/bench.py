"""The subject, detectors and images of an audit, opened in the main process and again in each worker of an engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from oodattack.attacks import Followed
from oodattack.auditing.errors import one_line
from oodattack.auditing.inputs import Inputs, read_inputs
from oodattack.auditing.models import open_models
from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.detectors import (
    SHARED_VIEWS,
    Absent,
    Detector,
    NotApplicableError,
    Subject,
    make_detectors,
    make_subject,
    own_detector,
    own_name,
)
from oodattack.detectors.likelihood import ImageModels
from oodattack.encoders import Encoder
from oodattack.engines import exact, open_encoder, open_encoder_in_worker, rows_that_fit
from oodattack.settings.audit import AuditSettings

MAX_BATCH_SIZE = 64  # maximum number of samples in a shard; an interrupted audit loses at most one shard


@dataclass(frozen=True)
class Bench:
    """A subject, its detectors, and images.

    Attributes:
        settings: the settings of the audit.
        subject: what detectors are fitted on and attacked through.
        detectors: detectors by name.
        absent: detectors that are not audited, with the reason.
        inputs: the images.
        model_digests: digests of the models of images that the settings name, in their order.
        followed: scores in the form that the direct attack descends, by detector, once they are needed.
    """

    settings: AuditSettings
    subject: Subject
    detectors: Mapping[str, Detector]
    absent: Sequence[Absent]
    inputs: Inputs
    model_digests: Sequence[str] = ()
    followed: dict[str, Followed] = field(default_factory=dict)

    def without(self, failed: Mapping[str, str]) -> "Bench":
        """The bench without some detectors, which become absent for the given reasons.

        Raises:
            InputError: if no detector is left.
        """
        left = {name: detector for name, detector in self.detectors.items() if name not in failed}
        absent = (*self.absent, *(Absent(name, reason) for name, reason in failed.items()))
        if not left:
            raise InputError("no detector is left: " + "; ".join(f"{a.name}: {a.reason}" for a in absent))
        return replace(self, detectors=left, absent=absent)


def open_bench(settings: AuditSettings) -> Bench:
    """Load the encoder, make its detectors without fitting them, and read the images.

    Raises:
        InputError: if a setting is invalid or an input cannot be read.
    """
    return _bench(settings, open_encoder(settings))


def open_in_worker(settings: AuditSettings, header: Mapping[str, Any]) -> Bench:
    """The same in a process other than the one that planned the audit.

    Args:
        settings: the settings of the audit.
        header: the header of the audit; see `oodattack.engines.open_encoder_in_worker`.

    Raises:
        InputError: if a setting is invalid, an input cannot be read, or the encoder is a different one.
    """
    return _bench(settings, open_encoder_in_worker(settings, header))


def _bench(settings: AuditSettings, encoder: Encoder) -> Bench:
    subject = make_subject(encoder, layers=settings.layer_names)
    models, digests = open_models(settings.model, encoder)
    detectors, absent = find_detectors(settings, subject, models)
    inputs = read_inputs(settings, subject, rows_that_fit(MAX_BATCH_SIZE, encoder.input_size))
    return Bench(settings, subject, detectors, absent, inputs, digests)


def open_fitted_bench(settings: AuditSettings, audit: Audit, names: Sequence[str]) -> Bench:
    """The bench in a worker, with fitted detectors: their fits are restored from the audit.

    Args:
        settings: the settings of the audit.
        audit: the audit, which stores the header and the fits.
        names: the detectors that the main process still audits; the others failed there.

    Raises:
        InputError: as for `open_in_worker`, or if one of these detectors cannot be restored.
    """
    with exact():
        bench = open_in_worker(settings, audit.read_header())
        bench = replace(bench, detectors={name: bench.detectors[name] for name in names})
        failed = restore_fits(bench, audit)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise InputError(f"expected every fitted detector to be restored in a worker, got errors ({reasons})")
    return bench


def restore_fits(bench: Bench, audit: Audit) -> dict[str, str]:
    """Restore the fits of a bench's detectors from the audit, and fit the detectors whose fits are not stored.

    Returns:
        The reason for each detector that failed, by name.
    """
    failed: dict[str, str] = {}
    for name, detector in bench.detectors.items():
        try:
            state = None if detector.source else audit.read_fit(name)
            if state is None:
                fit_detector(bench, name)
            else:
                detector.load_state_dict(state)
        except Exception as error:  # noqa: BLE001 -- the failure of one detector must not affect the others
            failed[name] = fit_failed(error)
    return failed


def fit_detector(bench: Bench, name: str) -> None:
    """Fit a detector with the same random draws in every process and every command."""
    with seeded(bench.subject.device):
        bench.detectors[name].fit(bench.inputs.train)


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Seed torch's random draws on the CPU and this device; afterwards its generators continue as before.

    >>> before = torch.random.get_rng_state()
    >>> with seeded(torch.device("cpu")):
    ...     first = torch.rand(3)
    >>> with seeded(torch.device("cpu")):
    ...     torch.equal(torch.rand(3), first)
    True
    >>> torch.equal(torch.random.get_rng_state(), before)
    True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def fit_failed(error: Exception) -> str:
    """The reason why a detector whose fit raised an error is absent."""
    reason = one_line(error)
    return reason if isinstance(error, NotApplicableError) else f"its fit failed: {reason}"


def find_detectors(
    settings: AuditSettings, subject: Subject, models: ImageModels
) -> tuple[dict[str, Detector], list[Absent]]:
    """Make the detectors of the catalogue that the settings name, and the user's own, without fitting them.

    Returns:
        The detectors by name, and those that do not apply, with the reason.

    Raises:
        InputError: for an unknown name, a name used twice, or if no detector is left.
    """
    own = [(own_name(spec), partial(own_detector, spec)) for spec in settings.detector]
    return collect_detectors(settings, subject, models, own)


def collect_detectors(
    settings: AuditSettings,
    subject: Subject,
    models: ImageModels,
    own: Sequence[tuple[str, Callable[[Subject], Detector]]],
) -> tuple[dict[str, Detector], list[Absent]]:
    """Make detectors for a subject, without fitting them.

    Args:
        settings: the settings of the audit; ``detectors`` names detectors, or is ("all",) or ("none",).
        subject: the subject.
        models: trained models of images.
        own: the user's own, by name, as functions that make them.

    Returns:
        The detectors by name, and those that do not apply, with the reason.

    Raises:
        InputError: for an unknown name, a name used twice, or if no detector is left.
    """
    found: dict[str, Detector] = {}
    absent: list[Absent] = []
    if settings.detectors not in ((), ("none",)):
        found, absent = make_detectors(subject, settings.detectors, models, settings.dequantise)
    for name, make in own:
        if name in (*found, *SHARED_VIEWS):
            raise InputError(
                f"expected a unique name for each of your detectors, got {name}, which is taken; rename it"
            )
        try:
            with seeded(subject.device):
                found[name] = make(subject)
        except NotApplicableError as error:
            absent.append(Absent(name, str(error)))
    if not found:
        reasons = "; ".join(f"{a.name}: {a.reason}" for a in absent) or "no detector was named"
        raise InputError(f"expected a detector that applies to {subject.encoder.name}, got none ({reasons})")
    return found, absent
