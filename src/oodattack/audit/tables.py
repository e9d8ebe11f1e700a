"""From scores to what the report says of each detector."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodattack.attacks.attacks import Attack, reading
from oodattack.audit.attacking import Z
from oodattack.audit.data import ImageSet
from oodattack.audit.measures import Measure, measure, verdict
from oodattack.audit.store import Audit
from oodattack.detectors import Detector
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import plain

ORDER = ("held", "bent", "broken", "blind", "unfinished")  # what survived comes first
WORST = "worst"  # of the attacks in one ball, image by image


@dataclass
class Scores:
    """All scores, and the images that are there from the beginning.

    Attributes:
        settings: of the audit.
        sets: images by name: "in", "starts" and natural sets.
        values: scores (N,) by detector and set; what attacks made goes by their keys.
    """

    settings: AuditSettings
    sets: dict[str, ImageSet]
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @staticmethod
    def concerns(attack: Attack, name: str, detector: Detector) -> bool:
        """Whether an attack is one on this detector: *latent* is on all."""
        return attack.kind == "latent" or attack.target == (
            name if attack.kind == "direct" else reading(name, detector)
        )


def tabulate(
    scores: Scores,
    detectors: Mapping[str, Detector],
    ways: Mapping[str, str],
    attacks: Sequence[Attack],
    failures: Mapping[str, str],
    audit: Audit,
) -> dict[str, Any]:
    """The part of the results that is about detectors and attacks, as JSON holds it.

    Args:
        scores: of all sets; the worst case of each image over the attacks in each ball is added.
        detectors: by name.
        ways: how each score is followed, or why not.
        attacks: all that were planned.
        failures: those that failed, by key (and `` by `` whom, where only one detector's scores did).
        audit: with the attacked images.
    """
    work = {attack.key: _work(attack, audit) for attack in attacks if attack.key not in failures}
    rows = []
    for name, detector in detectors.items():
        mine = [attack for attack in attacks if Scores.concerns(attack, name, detector)]
        open_ones = [a for a in mine if a.key in failures or f"{a.key} by {name}" in failures]
        rows.append(_row(scores, name, detector, ways[name], [a for a in mine if a not in open_ones], open_ones))
    rows.sort(key=lambda row: (ORDER.index(row["verdict"]), -row["strongest"]["auroc"]))
    return {"attacks": work, "detectors": rows}


def _work(attack: Attack, audit: Audit) -> dict[str, Any]:
    """What an attack reached, medians over the samples, and what it cost, means."""
    table = audit.read_attack(attack)
    mape = [value for value in table["mape"].to_pylist() if value is not None and not math.isnan(value)]
    return {
        **_told(attack),
        "mape": float(np.median(mape)) if mape else None,
        "distance": float(np.median(table["distance"].to_numpy())),
        "gradient_evaluations": float(np.mean(table["gradient_evaluations"].to_numpy())),
        "forward_evaluations": float(np.mean(table["forward_evaluations"].to_numpy())),
    }


def _row(
    scores: Scores, name: str, detector: Detector, way: str, attacks: Sequence[Attack], unfinished: Sequence[Attack]
) -> dict[str, Any]:
    """One detector: what it makes of every set, and its verdict.

    The strongest attack is that which is strongest on each image: the least of the scores that the attacks in one ball
    have reached.
    """
    settings, starts = scores.settings, scores.sets["starts"].names
    inside = scores.values[name, "in"]

    def compare(images: str, *, paired: bool) -> Measure:
        groups = starts if paired else None
        return measure(inside, scores.values[name, images], paired=paired, groups=groups, seed=settings.seed)

    keys = {attack.key for attack in attacks}
    natural = [images for judge, images in scores.values if judge == name and images not in ("in", "starts", *keys)]
    clean = {images: compare(images, paired=False) for images in natural} | {"starts": compare("starts", paired=True)}
    attacked = {attack.key: compare(attack.key, paired=True) for attack in attacks}
    worst: dict[float, Measure] = {}
    where: dict[float, dict[str, Any]] = {}
    for eps in settings.eps:
        full = [a.key for a in attacks if a.eps == eps and a.steps == settings.steps]
        if not full:
            continue
        images = f"{WORST}-{eps:.9g}"
        scores.values[name, images] = torch.stack([scores.values[name, key] for key in full]).amin(0)
        best = min(full, key=lambda key: attacked[key].auroc)
        worst[eps], where[eps] = compare(images, paired=True), {"attack": best, "set": images}
    largest = max(settings.eps)
    strongest = worst.get(largest, clean["starts"])
    complete = largest in worst and not any(a.eps == largest and a.steps == settings.steps for a in unfinished)
    reads = reading(name, detector)
    return {
        "name": name,
        "reads": "z" if reads == Z else reads if reads != name else "its own",
        "applicable": {
            "latent": "yes",
            "informed": "the same as latent: it reads z" if reads == Z else "yes",
            "direct": way,
        },
        "verdict": verdict(clean["starts"], strongest) if complete else "unfinished",
        "strongest": {**where.get(largest, {"attack": None, "set": "starts"}), **asdict(strongest)},
        "worst": [{"eps": plain(eps), **where[eps], **asdict(found)} for eps, found in worst.items()],
        "clean": {images: asdict(found) for images, found in clean.items()},
        "attacked": {a.key: {**_told(a), **asdict(attacked[a.key])} for a in attacks},
    }


def _told(attack: Attack) -> dict[str, Any]:
    return {"kind": attack.kind, "target": attack.target, "eps": plain(attack.eps), "steps": attack.steps}
