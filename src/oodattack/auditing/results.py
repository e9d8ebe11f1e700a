"""The results of an audit: all that follows from its fits, its scores, its attacked images and its inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from oodattack.auditing.bench import Bench
from oodattack.auditing.describe import describe
from oodattack.auditing.ensemble import accepted_by_all, scored_by_all
from oodattack.auditing.outside import still_outside
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit, Scores
from oodattack.auditing.tables import audited, tabulate, work_of
from oodattack.detectors import ENSEMBLE, Ensemble
from oodattack.encoders import Encoder


def compute_results(
    bench: Bench,
    audit: Audit,
    attacks: Sequence[Attack],
    how: Mapping[str, str],
    scores: Scores,
    failures: Mapping[str, str],
    witnesses: Mapping[str, Encoder],
    batch_size: int,
) -> dict[str, Any]:
    """What the audit records in results.json, and `oodattack verify` computes again.

    Args:
        bench: a bench with fitted detectors whose scores were followed (`oodattack.auditing.attack.follow_scores`).
        audit: the audit, with the images of the attacks.
        attacks: all planned attacks.
        how: by detector, how its score is followed or why it cannot be.
        scores: the scores of all sets.
        failures: reasons of failures; see `oodattack.auditing.tables.audited`.
        witnesses: encoders that are not attacked, by name.
        batch_size: number of images per batch.

    Returns:
        JSON values, which may contain NaN.
    """
    done = [attack for attack in attacks if attack.key not in failures]
    work = {attack.key: work_of(attack, audit) for attack in done}
    return {
        "subject": describe(bench),
        "sets": {name: len(images.names) for name, images in bench.inputs.clean.items()},
        "skipped": bench.inputs.skipped(),
        "attacks": work,
        "detectors": tabulate_detectors(bench, attacks, how, scores, failures, work),
        "jointly": _jointly(bench, done, scores),
        "outside": still_outside(bench, witnesses, audit, done, batch_size),
    }


def tabulate_detectors(
    bench: Bench,
    attacks: Sequence[Attack],
    how: Mapping[str, str],
    scores: Scores,
    failures: Mapping[str, str],
    work: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The tables of the detectors; ``work`` is that of each finished attack, and the rest as in `compute_results`."""
    slopes = {name: found.slope for name, found in bench.followed.items()}
    rows = audited(bench.detectors, how, slopes, attacks, failures)
    evaluations = {key: float(found["gradient_evaluations"]) for key, found in work.items()}
    return tabulate(bench.settings, rows, scores, bench.inputs, evaluations)


def _jointly(bench: Bench, done: Sequence[Attack], scores: Scores) -> dict[str, Any] | None:
    """The images that all members of the ensemble accept, if there is one."""
    ensemble = bench.detectors.get(ENSEMBLE)
    if not isinstance(ensemble, Ensemble):
        return None
    members = list(ensemble.members)
    return accepted_by_all(bench.settings, members, scored_by_all(members, done, scores), scores, bench.inputs)
