"""Whether an audit meets the requirements in its settings."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from oodattack.auditing.verdict import VERDICTS
from oodattack.core.errors import InputError, did_you_mean
from oodattack.settings.audit import AuditSettings
from oodattack.settings.requirement import Requirement, parse_requirement

Status = Literal["met", "failed", "skipped"]
CONCLUSIVE = ("held", "bent", "broken")  # verdicts whose figures say what the strongest attack did


@dataclass(frozen=True)
class Outcome:
    """A requirement of one detector on one set of starts.

    Attributes:
        requirement: the requirement.
        detector: name of the detector.
        starts: name of the set of starts.
        status: whether it is met. It is "skipped" for a detector that the audit left out, unless that was named.
        text: the measured value and its interval, or why there is none.
    """

    requirement: Requirement
    detector: str
    starts: str
    status: Status
    text: str


def check_names(settings: AuditSettings, detectors: Collection[str], sets: Collection[str]) -> None:
    """Check that the requirements name detectors and sets of the audit, before anything is computed.

    Args:
        settings: the settings of the audit.
        detectors: names of its detectors, including those that are left out.
        sets: names of its sets of starts.

    Raises:
        InputError: for an unknown name.

    >>> from pathlib import Path
    >>> s = AuditSettings(encoder="x", train="a", test="b", ood=("m",), out=Path("c"), require=("KNN:auroc>=0.7@l2:5",))
    >>> check_names(s, ["KNN"], ["m"])
    """
    for requirement in map(parse_requirement, settings.require):
        named = (("detector", requirement.detector, detectors), ("set of starts", requirement.starts, sets))
        for what, name, known in named:
            if name is not None and name not in known:
                raise InputError(
                    f"expected {requirement.text!r} to name a {what} of the audit, got {name!r}"
                    f"{did_you_mean(name, known) or '; its names are ' + ', '.join(known)}"
                )


def judge_requirements(results: Mapping[str, Any]) -> list[Outcome]:
    """Compare the results of an audit with the requirements in its settings.

    The unfavourable end of the 95 % interval counts: the lower end of an AUROC, the upper end of a pass rate. A figure
    that says nothing about attacks fails, with the reason: the detector is blind, an attack failed or could not follow
    its score, or there are too few starts.

    Args:
        results: the contents of ``results.json``.

    Returns:
        One outcome for each requirement, detector and set of starts that it concerns.

    >>> share = {"value": 0.8, "low": 0.75, "high": 0.85}
    >>> radius = {"eps": 5.0, "verdict": "held", "auroc": share}
    >>> row = {"name": "KNN", "sets": {"mnist": {"radii": [radius]}}}
    >>> settings = {"require": ["auroc>=0.7@l2:5", "auroc>=0.8@l2:5"], "detectors": ["KNN"], "detector": []}
    >>> results = {"settings": settings, "detectors": [row], "absent": [], "failures": {}}
    >>> [(outcome.status, outcome.text) for outcome in judge_requirements(results)]
    [('met', 'AUROC 0.800 (95 %: 0.750 to 0.850)'), ('failed', 'AUROC 0.800 (95 %: 0.750 to 0.850)')]
    """
    return [
        outcome
        for requirement in map(parse_requirement, results["settings"].get("require", ()))
        for outcome in (*_measured(requirement, results), *_absent(requirement, results))
    ]


def _measured(requirement: Requirement, results: Mapping[str, Any]) -> Iterator[Outcome]:
    for row in results["detectors"]:
        for starts, found in row["sets"].items():
            if requirement.detector in (None, row["name"]) and requirement.starts in (None, starts):
                at = next(at for at in found["radii"] if float(at["eps"]) == requirement.eps)
                met, text = _judge(requirement, at)
                yield Outcome(requirement, row["name"], starts, "met" if met else "failed", text)


def _judge(requirement: Requirement, at: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the figures at one radius meet the requirement, and the figures in words."""
    share = at["auroc" if requirement.figure == "auroc" else "rejected_pass"]
    if share["value"] is None:
        return False, "no start was rejected before the attack, so there is no pass rate"
    name = "AUROC" if requirement.figure == "auroc" else "pass rate"
    text = f"{name} {share['value']:.3f} (95 %: {share['low']:.3f} to {share['high']:.3f})"
    if at["verdict"] not in CONCLUSIVE:
        return False, f"{text}, but {at['verdict']}: {VERDICTS[at['verdict']]}"
    if requirement.figure == "auroc":
        return share["low"] >= requirement.bound, text
    return share["high"] <= requirement.bound, text


def _absent(requirement: Requirement, results: Mapping[str, Any]) -> Iterator[Outcome]:
    """Detectors that the audit left out: a failure where somebody named them, in the requirement or the settings."""
    named = (requirement.detector, *results["settings"]["detectors"], *results["settings"]["detector"])
    for absent in results["absent"]:
        for starts in results["detectors"][0]["sets"]:
            if requirement.detector in (None, absent["name"]) and requirement.starts in (None, starts):
                status: Status = "failed" if absent["name"] in named else "skipped"
                yield Outcome(requirement, absent["name"], starts, status, f"left out: {absent['reason']}")
