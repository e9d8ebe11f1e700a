"""From scores to the figures that the report shows for each detector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from oodattack.attacks import Slope
from oodattack.auditing.data import in_turn
from oodattack.auditing.inputs import IN, Inputs
from oodattack.auditing.kinds import reading
from oodattack.auditing.kinds.latent import Z
from oodattack.auditing.measures import Judge, Measure
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit, Scores
from oodattack.auditing.verdict import NOT_WORKING, Verdict, verdict, worst
from oodattack.detectors import ENSEMBLE, Detector
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import plain

DIRECT = "direct"
# The order of the rows.
ORDER: Sequence[Verdict] = (
    *("held", "not attacked adaptively", "bent", "broken"),
    *("unfinished", *NOT_WORKING),
)
NOTICEABLE = 0.05  # change in AUROC that raises a flag


@dataclass(frozen=True)
class Audited:
    """A detector and the attacks on it.

    Attributes:
        name: name of the detector.
        detector: the detector.
        how: how its score is followed, or why it cannot be.
        slope: what is known about the gradient of its score; None if it cannot be followed.
        attacks: attacks that are finished and scored.
        unfinished: attacks that failed, in general or only for this detector.
    """

    name: str
    detector: Detector
    how: str
    slope: Slope | None
    attacks: Sequence[Attack]
    unfinished: Sequence[Attack]

    def within(self, starts: str, eps: float, steps: int) -> list[Attack]:
        """The finished attacks from a set of starts whose images lie in a ball, with no more than that many steps.

        Balls and budgets are nested: what a smaller one allows, a larger one allows too.
        """
        return [attack for attack in self.attacks if attack.starts == starts and attack.within(eps, steps)]

    def failed(self, starts: str, eps: float) -> bool:
        """Whether an attack from a set of starts in a ball failed; attacks on the ensemble do not count for others."""
        return any(
            attack.starts == starts and attack.eps == eps and (attack.target != ENSEMBLE or self.name == ENSEMBLE)
            for attack in self.unfinished
        )


def audited(
    detectors: Mapping[str, Detector],
    how: Mapping[str, str],
    slopes: Mapping[str, Slope],
    attacks: Sequence[Attack],
    failures: Mapping[str, str],
) -> list[Audited]:
    """Every detector with the attacks that concern it.

    Args:
        detectors: detectors by name.
        how: by detector, how its score is followed or why it cannot be.
        slopes: by detector, what is known about the gradient of its score.
        attacks: all planned attacks.
        failures: reasons of failures, by the key of an attack, or by ``KEY by DETECTOR`` if only that detector's scores
            failed.
    """
    found = []
    for name, detector in detectors.items():
        mine = [attack for attack in attacks if attack.concerns(name, detector)]
        failed = [a for a in mine if a.key in failures or f"{a.key} by {name}" in failures]
        done = [attack for attack in mine if attack not in failed]
        found.append(Audited(name, detector, how[name], slopes.get(name), done, failed))
    return found


def tabulate(
    settings: AuditSettings, rows: Sequence[Audited], scores: Scores, inputs: Inputs, work: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The results of each detector as JSON values, those that withstood most first.

    Args:
        settings: the settings of the audit.
        rows: detectors and attacks.
        scores: the scores of all sets.
        inputs: the images.
        work: gradient evaluations per image, by the key of an attack.
    """
    table = [_row(_Figures(settings, row, scores, inputs, work)) for row in rows]

    def order(row: Mapping[str, Any]) -> tuple[int, float]:
        least = [found["radii"][-1]["auroc"]["value"] for found in row["sets"].values() if found["radii"]]
        return ORDER.index(row["verdict"]), -float(np.mean(least or [0.0]))

    return sorted(table, key=order)


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


def _row(figures: "_Figures") -> dict[str, Any]:
    """One detector: its figures on every set of starts, before and after the attacks, and its verdicts."""
    row = figures.row
    sets = {name: figures.of_set(name) for name in figures.inputs.sets}
    verdicts: dict[str, Verdict] = {name: found["verdict"] for name, found in sets.items()}
    headline = worst(list(verdicts.values()))
    reads = reading(row.name, row.detector)
    attacked = {a.key: {**_described(a), **asdict(figures.attacked(a))} for a in row.attacks}
    return {
        "name": row.name,
        "reads": "z" if reads == Z else reads if reads != row.name else "its own",
        "applicable": {
            "latent": "yes",
            "informed": "the same as latent: it reads z" if reads == Z else "yes",
            "direct": row.how,
        },
        "verdict": headline,
        "verdict_of": [name for name, found in verdicts.items() if found == headline],
        "sets": sets,
        "attacked": attacked,
        "flags": figures.flags(sets, attacked),
    }


class _Figures:
    """The figures of one detector."""

    def __init__(
        self, settings: AuditSettings, row: Audited, scores: Scores, inputs: Inputs, work: Mapping[str, float]
    ) -> None:
        self.settings, self.row, self.inputs, self.work = settings, row, inputs, work
        self.scores = {images: values for (name, images), values in scores.items() if name == row.name}
        self.judge = Judge(self.scores[IN], settings.seed)
        self.rows = len(inputs.targets.names)

    def of_set(self, starts: str) -> dict[str, Any]:
        """The figures on one set of starts: before the attacks, and against eps and the number of steps."""
        settings, images = self.settings, self.inputs.sets[starts]
        clean = self.judge.measure(self.scores[starts], clusters=images.names)
        before = self.judge.measure(self._starts(starts), clusters=self.inputs.starts[starts].names)
        reference = (clean, before)
        radii = [self._strongest(starts, reference, eps, settings.steps) for eps in sorted(settings.eps)]
        largest = max(settings.eps)
        budgets = sorted((*settings.budget, settings.steps)) if settings.budget else []
        found: list[Verdict] = [at["verdict"] for at in radii]
        return {
            "clean": asdict(clean),
            "before": asdict(before),
            "verdict": found[-1],
            "falls_at": next((at["eps"] for at in radii if at["verdict"] == "broken"), None),
            "radii": radii,
            "budgets": [self._strongest(starts, reference, largest, steps) for steps in budgets],
        }

    def attacked(self, attack: Attack) -> Measure:
        """The figures on the images of one attack."""
        return self._compare(attack.starts, self.scores[attack.key])

    def flags(self, sets: Mapping[str, Any], attacked: Mapping[str, Any]) -> list[str]:
        """Signs that attacks were too weak, in words."""
        found, slope = [], self.row.slope
        if slope is not None and slope.nonzero < slope.images:
            found.append(
                f"its gradient is zero or not finite on {slope.images - slope.nonzero} of {slope.images} images"
            )
        if slope is not None and 2 * slope.agreeing < slope.compared:
            found.append(f"its gradient agrees with differences on {slope.agreeing} of {slope.compared} images only")
        for name, figures in sets.items():
            if figures["verdict"] in (*NOT_WORKING, "unfinished"):
                continue
            values = [at["auroc"]["value"] for at in figures["budgets"]]
            if len(values) > 1 and values[-2] - values[-1] > NOTICEABLE:
                found.append(f"{name}: more steps still lower its AUROC, from {values[-2]:.3f} to {values[-1]:.3f}")
            found += self._weaker(name, attacked)
            last = figures["radii"][-1]
            if last["eps"] == "inf" and last["auroc"]["value"] > NOTICEABLE:
                found.append(
                    f"{name}: AUROC {last['auroc']['value']:.3f} at infinite eps: equal scores among in-distribution"
                    " images, or a weak attack"
                )
        return found

    def _weaker(self, starts: str, attacked: Mapping[str, Any]) -> list[str]:
        """Where the direct attack in a larger ball, alone, is weaker than in a smaller one."""
        alone = sorted(
            (float(at["eps"]), at["auroc"]["value"])
            for at in attacked.values()
            if (at["starts"], at["kind"], at["target"]) == (starts, DIRECT, self.row.name)
            and at["steps"] == self.settings.steps
        )
        rises = [(small, large) for small, large in pairwise(alone) if large[1] - small[1] > NOTICEABLE]
        return [
            f"{starts}: the direct attack alone gets weaker from eps {small[0]:.4g} (AUROC {small[1]:.3f}) to"
            f" {large[0]:.4g} ({large[1]:.3f})"
            for small, large in rises
        ]

    def _strongest(self, starts: str, reference: tuple[Measure, Measure], eps: float, steps: int) -> dict[str, Any]:
        """The strongest attack on each image within a ball and a budget, and its verdict."""
        attacks = self.row.within(starts, eps, steps)
        adaptive = any(attack.kind == DIRECT and attack.target == self.row.name for attack in attacks)
        finished = bool(attacks) and not self.row.failed(starts, eps)
        values = torch.stack([self._starts(starts), *(self.scores[attack.key] for attack in attacks)])
        found = self._compare(starts, values.amin(0))
        # For the two-sided detector, the strongest attack is the one that ends nearest to the median.
        ranks = torch.stack([self.judge.rank(row) for row in values])
        nearest = (ranks - 0.5).abs().argmin(0)
        two_sided = self._compare(starts, values.gather(0, nearest[None])[0]).two_sided
        means = {attack.key: float(row.mean()) for attack, row in zip(attacks, ranks[1:], strict=True)}
        return {
            "eps": plain(eps),
            "steps": steps,
            "verdict": verdict(*reference, found, finished=finished, adaptive=adaptive),
            "finished": finished,
            "gradient_evaluations": sum(self.work[attack.key] for attack in attacks),
            "attack": min(means, key=lambda key: means[key], default=None),
            **asdict(found),
            "two_sided": asdict(two_sided),
        }

    def _starts(self, starts: str) -> torch.Tensor:
        """(N,) the scores of the starts, row by row."""
        return in_turn(self.scores[starts], self.rows)

    def _compare(self, starts: str, values: torch.Tensor) -> Measure:
        return self.judge.measure(values, starts=self._starts(starts), clusters=self.inputs.starts[starts].names)


def _described(attack: Attack) -> dict[str, Any]:
    return {
        "starts": attack.starts,
        "kind": attack.kind,
        "target": attack.target,
        "eps": plain(attack.eps),
        "steps": attack.steps,
    }
