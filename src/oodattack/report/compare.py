"""Several audits, or several runs, side by side: what differs in their settings, and in their results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from oodattack.core.errors import InputError
from oodattack.runs import Group, Run, open_run, summarize

MAX = len(ascii_uppercase)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A difference of two fractions with its 95 % interval."""

    value: float
    low: float
    high: float


def difference(first: Row, second: Row) -> Difference:
    """The second of two fractions minus the first, with an interval from the intervals of both.

    By Newcombe's method of variance estimates recovery (Stat. Med. 17, 1998), as if both were independent. Where the
    same images were attacked, they are not, and the interval is wider than necessary.

    >>> difference({"value": 0.25, "low": 0.25, "high": 0.25}, {"value": 0.75, "low": 0.5, "high": 0.875})
    Difference(value=0.5, low=0.25, high=0.625)
    """
    value = second["value"] - first["value"]
    low = value - math.hypot(second["value"] - second["low"], first["high"] - first["value"])
    high = value + math.hypot(second["high"] - second["value"], first["value"] - first["low"])
    return Difference(value, max(low, -1.0), min(high, 1.0))


def kind_of(directories: Sequence[Path]) -> str:
    """What the directories are: "audit" or "run".

    Raises:
        InputError: if they are fewer than two, too many, neither, or some of each.

    >>> kind_of([Path("no/such/run"), Path("no/such/other")])
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the directory of a run or an audit, got no/such/run
    """
    if not 2 <= len(directories) <= MAX:
        raise InputError(f"expected 2 to {MAX} directories to compare, got {len(directories)}")
    kinds = {}
    for path in directories:
        kind = next((kind for kind in ("audit", "run") if (path / f"{kind}.json").is_file()), None)
        if kind is None:
            raise InputError(f"expected the directory of a run or an audit, got {path}")
        kinds[kind] = path
    if len(kinds) > 1:
        raise InputError(
            f"expected only runs or only audits to compare, got the run {kinds['run']} and the audit {kinds['audit']};"
            " compare them separately"
        )
    return next(iter(kinds))


def differing(values: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The entries in which some mappings differ, with their values as text; "–" stands for a missing one.

    >>> differing([{"eps": [1.0], "seed": 0}, {"eps": [1.0, 2.0], "seed": 0}])
    [('eps', ['1.0', '1.0, 2.0'])]
    """
    names = dict.fromkeys(name for one in values for name in one)
    found = []
    for name in names:
        texts = [_text(one[name]) if name in one else "–" for one in values]
        if len(set(texts)) > 1:
            found.append((name, texts))
    return found


@dataclass(frozen=True)
class Audits:
    """Finished audits to compare.

    Attributes:
        names: a letter for each.
        paths: their directories.
        results: the content of their results.json.
        settings: the settings and inputs in which they differ; see `differing`.
        eps: the largest radius that all have in balls of the same norm; None if there is none.
        rows: for each detector and set of starts that at least two have, the number of the detector in each audit,
            None where it is missing.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    results: Sequence[Row]
    settings: Sequence[tuple[str, Sequence[str]]]
    eps: float | None
    rows: Sequence[tuple[str, str, Sequence[int | None]]]

    def place(self, number: int) -> int:
        """The number of the common radius in one of the audits."""
        from oodattack.report.audit_short import radii  # loads torch, which runs do not need

        assert self.eps is not None  # noqa: S101 -- there is a common radius
        return radii(self.results[number]).index(self.eps)

    def differences(self) -> dict[tuple[str, str, str], Difference]:
        """AUROC within the common radius minus that of the first audit, by letter, detector and set of starts."""
        if self.eps is None:
            return {}
        found = {}
        for detector, starts, places in self.rows:
            after = [
                None
                if place is None
                else self.results[number]["detectors"][place]["sets"][starts]["radii"][self.place(number)]["auroc"]
                for number, place in enumerate(places)
            ]
            for letter, other in zip(self.names[1:], after[1:], strict=True):
                if after[0] is not None and other is not None:
                    found[letter, detector, starts] = difference(after[0], other)
        return found


def read_audits(directories: Sequence[Path]) -> Audits:
    """Read audits to compare.

    Raises:
        InputError: if one of them is not finished.
    """
    from oodattack.auditing.store import open_audit  # torch and all detectors, which runs do not need

    opened = [open_audit(path) for path in directories]
    results = [audit.read_results() for audit in opened]
    headers = [audit.read_header() for audit in opened]
    described = [
        {
            **{name: value for name, value in found["settings"].items() if name != "out"},
            **{f"digest of {name}": _digest(value) for name, value in header["inputs"].items()},
            **found["environment"],
        }
        for found, header in zip(results, headers, strict=True)
    ]
    return Audits(_letters(opened), directories, results, differing(described), _eps(results), _rows(results))


@dataclass(frozen=True)
class Runs:
    """Runs to compare.

    Attributes:
        names: a letter for each.
        runs: the runs.
        settings: the settings and inputs in which they differ; see `differing`.
        rows: for each start and eps, the summary of each run, None where it has none.
    """

    names: Sequence[str]
    runs: Sequence[Run]
    settings: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, float, Sequence[Group | None]]]


def read_runs(directories: Sequence[Path]) -> Runs:
    """Read runs to compare, finished or not.

    Raises:
        InputError: if a file is damaged.
    """
    runs = [open_run(path) for path in directories]
    described = [
        {
            **run.header["settings"],
            "latent z": f"{run.header['inputs']['layer']}, {run.header['inputs']['latent_dim']} numbers",
            **{
                f"digest of {name}": _digest(run.header["inputs"].get(name)) for name in ("encoder", "images", "starts")
            },
            **run.header["environment"],
        }
        for run in runs
    ]
    groups = [{(group.start, group.eps): group for group in summarize(run)} for run in runs]
    keys = dict.fromkeys(key for one in groups for key in one)
    rows = [(start, eps, [one.get((start, eps)) for one in groups]) for start, eps in keys]
    return Runs(_letters(runs), runs, differing(described), rows)


def _letters(found: Sequence[Any]) -> list[str]:
    return list(ascii_uppercase[: len(found)])


def _digest(value: Any) -> str:
    """The beginning of a digest, or of each of several."""
    return ", ".join(map(_digest, value)) if isinstance(value, list) else str(value)[:12]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "–"
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _eps(results: Sequence[Row]) -> float | None:
    if len({one["settings"]["norm"] for one in results}) > 1:
        return None
    common = set.intersection(*({float(eps) for eps in one["settings"]["eps"]} for one in results))
    return max(common, default=None)


def _rows(results: Sequence[Row]) -> list[tuple[str, str, list[int | None]]]:
    numbers = [{row["name"]: number for number, row in enumerate(one["detectors"])} for one in results]
    found = []
    for detector in dict.fromkeys(name for one in numbers for name in one):
        for starts in dict.fromkeys(name for one in results for name in one["detectors"][0]["sets"]):
            places = [
                one.get(detector) if starts in result["detectors"][0]["sets"] else None
                for one, result in zip(numbers, results, strict=True)
            ]
            if sum(place is not None for place in places) > 1:
                found.append((detector, starts, places))
    return found
