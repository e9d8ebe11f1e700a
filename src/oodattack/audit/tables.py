"""From scores to the figures that the report shows for each detector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodattack.audit.kinds import reading
from oodattack.audit.kinds.latent import Z
from oodattack.audit.measures import Measure, measure, verdict
from oodattack.audit.plan import Attack
from oodattack.audit.store import Audit, Scores
from oodattack.detectors import Detector
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import plain

ORDER = ("held", "bent", "broken", "blind", "unfinished")  # order of the rows, by verdict
WORST = "worst"  # prefix of the sets of the strongest attack on each image in one ball


@dataclass(frozen=True)
class Audited:
    """A detector and the attacks on it.

    Attributes:
        name: name of the detector.
        detector: the detector.
        how: how its score is followed, or why it cannot be.
        attacks: attacks that are finished and scored.
        unfinished: attacks that failed, in general or only for this detector.
    """

    name: str
    detector: Detector
    how: str
    attacks: Sequence[Attack]
    unfinished: Sequence[Attack]

    def full(self, settings: AuditSettings, eps: float) -> list[Attack]:
        """The finished attacks in one ball with the full number of steps."""
        return [attack for attack in self.attacks if attack.eps == eps and attack.steps == settings.steps]


def audited(
    detectors: Mapping[str, Detector],
    how: Mapping[str, str],
    attacks: Sequence[Attack],
    failures: Mapping[str, str],
) -> list[Audited]:
    """Every detector with the attacks that concern it.

    Args:
        detectors: detectors by name.
        how: by detector, how its score is followed or why it cannot be.
        attacks: all planned attacks.
        failures: reasons of failures, by the key of an attack, or by ``KEY by DETECTOR`` if only that detector's scores
            failed.
    """
    found = []
    for name, detector in detectors.items():
        mine = [attack for attack in attacks if attack.concerns(name, detector)]
        failed = [a for a in mine if a.key in failures or f"{a.key} by {name}" in failures]
        done = [attack for attack in mine if attack not in failed]
        found.append(Audited(name, detector, how[name], done, failed))
    return found


def worst_scores(settings: AuditSettings, rows: Sequence[Audited], scores: Scores) -> Scores:
    """The lowest score of each image over the attacks in one ball, by detector and set ``worst-EPS``."""
    found: dict[tuple[str, str], Tensor] = {}
    for row in rows:
        for eps in settings.eps:
            if full := row.full(settings, eps):
                found[row.name, worst_set(eps)] = torch.stack([scores[row.name, a.key] for a in full]).amin(0)
    return found


def worst_set(eps: float) -> str:
    """Name of the set of the strongest attacks in one ball.

    >>> worst_set(0.5)
    'worst-0.5'
    """
    return f"{WORST}-{eps:.9g}"


def tabulate(
    settings: AuditSettings, rows: Sequence[Audited], scores: Scores, starts: Sequence[str]
) -> list[dict[str, Any]]:
    """The results of each detector as JSON values, ordered by verdict.

    Args:
        settings: the settings of the audit.
        rows: detectors and attacks.
        scores: the scores of all sets, including those of `worst_scores`.
        starts: names of the starts.
    """
    table = [_row(settings, row, scores, starts) for row in rows]
    return sorted(table, key=lambda row: (ORDER.index(row["verdict"]), -row["strongest"]["auroc"]))


def work_of(attack: Attack, audit: Audit) -> dict[str, Any]:
    """The outcome of an attack (medians over the samples) and its cost (means over the samples)."""
    table = audit.read_attack(attack.key, ["mape", "distance", "gradient_evaluations", "forward_evaluations"])
    mape = [value for value in table["mape"].to_pylist() if value is not None and not math.isnan(value)]
    return {
        **_described(attack),
        "mape": float(np.median(mape)) if mape else None,
        "distance": float(np.median(table["distance"].to_numpy())),
        "gradient_evaluations": float(np.mean(table["gradient_evaluations"].to_numpy())),
        "forward_evaluations": float(np.mean(table["forward_evaluations"].to_numpy())),
    }


def _row(settings: AuditSettings, row: Audited, scores: Scores, starts: Sequence[str]) -> dict[str, Any]:
    """One detector: its figures on every set, and its verdict.

    The verdict comes from the strongest attack on each image in the largest ball.
    """
    inside, eps_max = scores[row.name, "in"], max(settings.eps)

    def compare(images: str, *, paired: bool) -> Measure:
        groups = starts if paired else None
        return measure(inside, scores[row.name, images], paired=paired, groups=groups, seed=settings.seed)

    made = {*(attack.key for attack in row.attacks), *map(worst_set, settings.eps)}
    natural = [s for name, s in scores if name == row.name and s not in ("in", "starts", *made)]
    clean = {images: compare(images, paired=False) for images in natural} | {"starts": compare("starts", paired=True)}
    attacked = {attack.key: compare(attack.key, paired=True) for attack in row.attacks}
    worst: dict[float, Measure] = {}
    where: dict[float, dict[str, Any]] = {}
    for eps in settings.eps:
        if full := row.full(settings, eps):
            best = min(full, key=lambda attack: attacked[attack.key].auroc)
            worst[eps] = compare(worst_set(eps), paired=True)
            where[eps] = {"attack": best.key, "set": worst_set(eps)}
    strongest = worst.get(eps_max, clean["starts"])
    failed = any(a.eps == eps_max and a.steps == settings.steps for a in row.unfinished)
    reads = reading(row.name, row.detector)
    return {
        "name": row.name,
        "reads": "z" if reads == Z else reads if reads != row.name else "its own",
        "applicable": {
            "latent": "yes",
            "informed": "the same as latent: it reads z" if reads == Z else "yes",
            "direct": row.how,
        },
        "verdict": verdict(clean["starts"], strongest) if eps_max in worst and not failed else "unfinished",
        "strongest": {**where.get(eps_max, {"attack": None, "set": "starts"}), **asdict(strongest)},
        "worst": [{"eps": plain(eps), **where[eps], **asdict(found)} for eps, found in worst.items()],
        "clean": {images: asdict(found) for images, found in clean.items()},
        "attacked": {a.key: {**_described(a), **asdict(attacked[a.key])} for a in row.attacks},
    }


def _described(attack: Attack) -> dict[str, Any]:
    return {"kind": attack.kind, "target": attack.target, "eps": plain(attack.eps), "steps": attack.steps}
