"""Several audits, or several runs, side by side: what differs in their settings, and in their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from oodattack.core.errors import InputError
from oodattack.report.intervals import Interval, difference
from oodattack.report.paired import Against, Mapes, against, read_mapes
from oodattack.report.trained import training_settings
from oodattack.runs import Group, Run, open_run, summarize

if TYPE_CHECKING:
    from oodattack.auditing.store import Audit

MAX = len(ascii_uppercase)
UNKNOWN = "not recorded yet"  # a setting that an audit records when it is finished
Row = Mapping[str, Any]


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

    A value that is `UNKNOWN` may be the same as the others, so it makes no difference.

    >>> differing([{"eps": [1.0], "seed": 0}, {"eps": [1.0, 2.0], "seed": 0}])
    [('eps', ['1.0', '1.0, 2.0'])]
    >>> differing([{"eps": [1.0]}, {"eps": UNKNOWN}])
    []
    """
    names = dict.fromkeys(name for one in values for name in one)
    found = []
    for name in names:
        texts = [_text(one[name]) if name in one else "–" for one in values]
        if len(set(texts) - {UNKNOWN}) > 1:
            found.append((name, texts))
    return found


@dataclass(frozen=True)
class Progress:
    """What an audit has stored that is not finished: detectors fitted, and attacks with all or some of their images."""

    fits: int
    attacks: int
    begun: int


@dataclass(frozen=True)
class Audits:
    """Audits to compare.

    Attributes:
        all_names: a letter for each.
        paths: the directory of each.
        unfinished: how far those have got that have no results yet, by letter.
        names: the letters of the finished ones, which have figures to compare.
        results: the content of results.json of each finished one.
        settings: the settings and inputs in which they differ; see `differing`.
        eps: the largest radius that the finished ones have in balls of the same norm; None if there is none.
        rows: for each detector and set of starts that at least two have, the number of the detector in each finished
            audit, None where it is missing.
    """

    all_names: Sequence[str]
    paths: Sequence[Path]
    unfinished: Mapping[str, Progress]
    names: Sequence[str]
    results: Sequence[Row]
    settings: Sequence[tuple[str, Sequence[str]]]
    eps: float | None
    rows: Sequence[tuple[str, str, Sequence[int | None]]]

    def place(self, number: int) -> int:
        """The number of the common radius in one of the audits."""
        from oodattack.report.audit_short import radii  # loads torch, which runs do not need

        assert self.eps is not None  # noqa: S101 -- there is a common radius
        return radii(self.results[number]).index(self.eps)

    def differences(self) -> dict[tuple[str, str, str], Interval]:
        """AUROC within the common radius minus that of the first one, by letter, detector and set of starts."""
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
                    found[letter, detector, starts] = difference(Interval(**after[0]), Interval(**other))
        return found


def read_audits(directories: Sequence[Path]) -> Audits:
    """Read audits to compare, finished or not.

    Raises:
        InputError: if a file is damaged.
    """
    from oodattack.auditing.store import open_audit  # torch and all detectors, which runs do not need

    letters = _letters(directories)
    audits = dict(zip(letters, map(open_audit, directories), strict=True))
    results = {letter: audit.read_results() for letter, audit in audits.items() if audit.finished}
    recorded = {name for found in results.values() for name in found["settings"]} - {"out"}
    described = []
    for letter, audit in audits.items():
        header = audit.read_header()
        given = results.get(letter, header)
        described.append(
            {
                **({} if letter in results else dict.fromkeys(sorted(recorded), UNKNOWN)),
                **{name: value for name, value in given["settings"].items() if name != "out"},
                **training_settings(given["settings"]["encoder"]),
                **{f"digest of {name}": _digest(value) for name, value in header["inputs"].items()},
                **given["environment"],
            }
        )
    finished = list(results.values())
    return Audits(
        letters,
        directories,
        {letter: _progress(audit) for letter, audit in audits.items() if letter not in results},
        list(results),
        finished,
        differing(described),
        _eps(finished),
        _rows(finished),
    )


def _progress(audit: "Audit") -> Progress:
    rows = audit.rows_done()
    complete = sum(done == audit.row_count(key.partition("/")[0]) for key, done in rows.items())
    return Progress(len(audit.fits()), complete, len(rows) - complete)


@dataclass(frozen=True)
class Runs:
    """Runs to compare.

    Attributes:
        names: a letter for each.
        runs: the runs.
        settings: the settings and inputs in which they differ; see `differing`.
        rows: for each start and eps, the summary of each run, None where it has none.
        mapes: the MAPEs of each run.
    """

    names: Sequence[str]
    runs: Sequence[Run]
    settings: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, float, Sequence[Group | None]]]
    mapes: Sequence[Mapes]

    def against(self, row: int, number: int) -> Against | None:
        """A run against the first one in one of the rows; None for the first itself, and where either has no MAPE."""
        return self._against.get((row, number))

    @cached_property
    def _against(self) -> Mapping[tuple[int, int], Against | None]:
        first, *others = self.mapes
        return {
            (row, number): against(first, other, (start, eps))
            for row, (start, eps, _) in enumerate(self.rows)
            for number, other in enumerate(others, 1)
        }


def read_runs(directories: Sequence[Path]) -> Runs:
    """Read runs to compare, finished or not.

    Raises:
        InputError: if a file is damaged.
    """
    runs = [open_run(path) for path in directories]
    described = [
        {
            **run.header["settings"],
            **training_settings(run.header["settings"]["encoder"]),
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
    return Runs(_letters(runs), runs, differing(described), rows, [read_mapes(run) for run in runs])


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
    if len({one["settings"]["norm"] for one in results}) != 1:
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
