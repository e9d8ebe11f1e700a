"""From scores to what the report says of each detector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from oodattack.audit.attacking import Z
from oodattack.audit.attacks import Attack, Way, reading
from oodattack.audit.data import ImageSet, from_pngs
from oodattack.audit.measures import Measure, measure, verdict
from oodattack.audit.store import Audit
from oodattack.audit_settings import AuditSettings
from oodattack.detectors import Detector

ORDER = ("held", "bent", "broken", "blind")  # what survived comes first


@dataclass
class Scores:
    """All sets of images, and all scores.

    Attributes:
        settings: of the audit.
        sets: images by name: "in", "starts", natural sets, and by key what attacks made.
        values: scores (N,) by detector and set.
    """

    settings: AuditSettings
    sets: dict[str, ImageSet]
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def attacked(self, attack: Attack, audit: Audit, names: Sequence[str]) -> None:
        """Take in the images that an attack made."""
        cells = audit.read_attack(attack)["image"].to_pylist()
        self.sets[attack.key] = from_pngs(attack.key, [cell["bytes"] for cell in cells], names)

    @staticmethod
    def concerns(attack: Attack, name: str, detector: Detector) -> bool:
        """Whether an attack is one on this detector: *latent* is on all."""
        return attack.kind == "latent" or attack.target == (
            name if attack.kind == "direct" else reading(name, detector)
        )


def tabulate(
    scores: Scores,
    detectors: Mapping[str, Detector],
    ways: Mapping[str, Way],
    attacks: Sequence[Attack],
    audit: Audit,
) -> dict[str, Any]:
    """The part of the results that is about detectors and attacks, as JSON holds it."""
    work = {attack.key: _work(attack, audit) for attack in attacks}
    rows = [_row(scores, name, detector, ways[name], attacks) for name, detector in detectors.items()]
    rows.sort(key=lambda row: (ORDER.index(row["verdict"]), -row["strongest"]["auroc"]))
    return {"attacks": work, "detectors": rows}


def _work(attack: Attack, audit: Audit) -> dict[str, Any]:
    """What an attack reached and what it cost: medians over the samples."""
    table = audit.read_attack(attack)
    mape = [value for value in table["mape"].to_pylist() if value is not None and not math.isnan(value)]
    return {
        **asdict(attack),
        "mape": float(np.median(mape)) if mape else None,
        "distance": float(np.median(table["distance"].to_numpy())),
        "gradient_evaluations": float(np.mean(table["gradient_evaluations"].to_numpy())),
    }


def _row(scores: Scores, name: str, detector: Detector, way: Way, attacks: Sequence[Attack]) -> dict[str, Any]:
    inside = scores.values[name, "in"]
    seed, largest = scores.settings.seed, max(scores.settings.eps)
    known = {attack.key: attack for attack in attacks}
    clean: dict[str, Measure] = {}
    attacked: dict[str, Measure] = {}
    for (judge, images), outside in scores.values.items():
        if judge == name and images in known:
            attacked[images] = measure(inside, outside, paired=True, seed=seed)
        elif judge == name and images != "in":
            clean[images] = measure(inside, outside, paired=images == "starts", seed=seed)
    full = {
        key: found
        for key, found in attacked.items()
        if known[key].eps == largest and known[key].steps == scores.settings.steps
    }
    strongest = min(full, key=lambda key: full[key].auroc, default="starts")
    worst = {**full, "starts": clean["starts"]}[strongest]
    reads = reading(name, detector)
    return {
        "name": name,
        "reads": "z" if reads == Z else reads if reads != name else "its own",
        "applicable": {
            "latent": "yes",
            "informed": "the same as latent: it reads z" if reads == Z else "yes",
            "direct": way.how,
        },
        "verdict": verdict(clean["starts"], worst),
        "strongest": {"attack": strongest, **asdict(worst)},
        "clean": {images: asdict(found) for images, found in clean.items()},
        "attacked": {key: {**asdict(known[key]), **asdict(found)} for key, found in attacked.items()},
    }
