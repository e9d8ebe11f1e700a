"""`--jointly`: several detectors of an audit as one, and the images that all of them accept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from oodattack.auditing.bench import Bench, open_fitted_bench
from oodattack.auditing.data import in_turn
from oodattack.auditing.inputs import IN, Inputs
from oodattack.auditing.measures import Judge, threshold
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit, Scores
from oodattack.core.errors import InputError
from oodattack.detectors import ENSEMBLE, Ensemble
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import plain


def add_ensemble(bench: Bench, audit: Audit, clean: Scores) -> tuple[Bench, Scores]:
    """Add the detectors that the settings name as one detector, if they name any.

    Args:
        bench: a bench with fitted detectors.
        audit: the audit, which keeps what workers need.
        clean: the scores of every set that is not attacked.

    Returns:
        The bench and the scores, both with the ensemble.

    Raises:
        InputError: if one of the detectors is not audited.
    """
    names = _members(bench)
    if not names:
        return bench, clean
    inside = {name: clean[name, IN] for name in names}
    audit.write_fit(ENSEMBLE, inside)
    ensemble = Ensemble({name: bench.detectors[name] for name in names}, inside)
    scores = {
        (ENSEMBLE, images): ensemble.combine({name: clean[name, images] for name in names})
        for images in bench.inputs.clean
    }
    return _with(bench, ensemble), {**clean, **scores}


def open_audited_bench(settings: AuditSettings, audit: Audit, names: Sequence[str]) -> Bench:
    """The bench in a worker, with the fitted detectors of these names, one of which may be the ensemble.

    Raises:
        InputError: as for `open_fitted_bench`, or if the ensemble cannot be restored.
    """
    bench = open_fitted_bench(settings, audit, [name for name in names if name != ENSEMBLE])
    return restore_ensemble(bench, audit) if ENSEMBLE in names else bench


def restore_ensemble(bench: Bench, audit: Audit) -> Bench:
    """The bench with the ensemble that the audit keeps.

    Raises:
        InputError: if the audit keeps none, it cannot be read, or one of its members is not among the detectors.
    """
    inside = audit.read_fit(ENSEMBLE)
    if inside is None:
        raise InputError(f"expected the scores of the ensemble in {audit.path}, got none; repeat the command")
    lost = [name for name in inside if name not in bench.detectors]
    if lost:
        raise InputError(f"expected the members of the ensemble among the detectors, got none named {', '.join(lost)}")
    return _with(bench, Ensemble({name: bench.detectors[name] for name in inside}, inside))


def _with(bench: Bench, ensemble: Ensemble) -> Bench:
    return replace(bench, detectors={**bench.detectors, ENSEMBLE: ensemble})


def _members(bench: Bench) -> list[str]:
    wanted = bench.settings.jointly
    if wanted == ("all",):
        return list(bench.detectors)
    for name in wanted:
        if name not in bench.detectors:
            reason = {absent.name: absent.reason for absent in bench.absent}.get(name, "it is not among --detectors")
            raise InputError(f"expected detectors of this audit for jointly, got {name}: {reason}")
    return list(wanted)


def accepted_by_all(
    settings: AuditSettings, members: Sequence[str], attacks: Sequence[Attack], scores: Scores, inputs: Inputs
) -> dict[str, Any]:
    """How many images all members accept at once, each at its own threshold.

    Args:
        settings: the settings of the audit.
        members: names of the detectors.
        attacks: finished attacks whose images all members have scored.
        scores: the scores of all sets.
        inputs: the images.

    Returns:
        JSON values: ``members``; ``in_distribution``, the share of held-out images that all accept; and by set of
        starts ``before``, the share of its images that all accept, ``rejected``, the number of starts that one of them
        rejects, and ``radii``, by eps the share of these from which an attack found an image that all accept.
    """
    limits = {name: threshold(scores[name, IN]) for name in members}

    def accepted(images: str) -> Tensor:
        return torch.stack([scores[name, images] <= limit for name, limit in limits.items()]).all(0)

    # A share of accepted images is a pass rate of a detector that scores 0 or 1.
    judge = Judge(torch.zeros(len(scores[members[0], IN])), settings.seed)
    sets: dict[str, Any] = {}
    for name, images in inputs.sets.items():
        starts = inputs.starts[name].names
        passed = accepted(name)
        before = in_turn(passed, len(starts))
        radii = []
        for eps in sorted(settings.eps):
            within = [a for a in attacks if a.starts == name and a.within(eps, settings.steps)]
            found = torch.stack([before, *(accepted(attack.key) for attack in within)]).any(0)
            measured = judge.measure((~found).double(), starts=(~before).double(), clusters=starts)
            radii.append({"eps": plain(eps), **asdict(measured.rejected_pass)})
        sets[name] = {
            "before": asdict(judge.measure((~passed).double(), clusters=images.names).fpr95_in_positive),
            "rejected": int((~before).sum()),
            "count": len(before),
            "radii": radii,
        }
    return {"members": list(members), "in_distribution": float(accepted(IN).double().mean()), "sets": sets}


def scored_by_all(
    members: Sequence[str], attacks: Sequence[Attack], scores: Mapping[tuple[str, str], Tensor]
) -> list[Attack]:
    """The attacks whose images all members have scored."""
    return [attack for attack in attacks if all((name, attack.key) in scores for name in members)]
