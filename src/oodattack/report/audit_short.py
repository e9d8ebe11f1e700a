"""An audit in one table: over all detectors that work, how many fall, and how many rejected images pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from oodattack.auditing.verdict import NOT_WORKING
from oodattack.report.markdown import cell, head, line
from oodattack.report.numbers import eps_label

EXPLANATION = (
    "Over the detectors that work on a set of starts (neither blind nor with too few starts): the median share of the"
    " attacked starts that pass before; how many attacks have a start that the detector rejects; and for each eps how"
    " many detectors are broken, and the share of these attacks that pass."
)


@dataclass(frozen=True)
class Short:
    """Figures over the detectors that work on one set of starts.

    Attributes:
        starts: name of the set.
        working: number of these detectors; if it is 0, the other figures are None or empty.
        passing: median share of the attacked starts that pass before.
        rejected: number of attacks, over all detectors, whose start the detector rejects.
        within: for each eps, how many detectors are broken, and the share of these attacks that pass, which is None if
            there are none.
    """

    starts: str
    working: int
    passing: float | None
    rejected: int | None
    within: Sequence[tuple[int, float | None]]


def short_rows(results: Mapping[str, Any]) -> list[Short]:
    """The figures of each set of starts.

    Args:
        results: the results of an audit.

    >>> found = {"before": {"fpr95_in_positive": {"value": 0.2}}, "verdict": "broken"}
    >>> found["radii"] = [{"eps": 1.0, "verdict": "broken", "rejected": 8, "rejected_pass": {"value": 0.25}}]
    >>> short_rows({"detectors": [{"name": "KNN", "sets": {"scans": found}}]})
    [Short(starts='scans', working=1, passing=0.2, rejected=8, within=[(1, 0.25)])]
    """
    rows = results["detectors"]
    return [_short(name, [row["sets"][name] for row in rows]) for name in rows[0]["sets"]]


def short_table(results: Mapping[str, Any]) -> list[str]:
    r"""The same as lines of Markdown.

    Args:
        results: the results of an audit.

    >>> def at(eps, verdict, passing):
    ...     return {"eps": eps, "verdict": verdict, "rejected": 8, "rejected_pass": {"value": passing}}
    >>> found = {"before": {"fpr95_in_positive": {"value": 0.2}}, "verdict": "broken"}
    >>> found["radii"] = [at(1.0, "held", 0.25), at(2.0, "broken", 1.0)]
    >>> print("\n".join(short_table({"detectors": [{"name": "KNN", "sets": {"scans": found}}]})[4:]))
    | from | detectors that work | starts that pass | rejected starts | fallen at 1 | pass | fallen at 2 | pass |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | scans | 1 | 20 % | 8 | 0 | 25 % | 1 | 100 % |
    <BLANKLINE>
    """
    headings = [heading for eps in radii(results) for heading in (f"fallen at {eps_label(eps)}", "pass")]
    return [
        "## In short",
        "",
        EXPLANATION,
        "",
        *head(["from", "detectors that work", "starts that pass", "rejected starts", *headings]),
        *(_line(found) for found in short_rows(results)),
        "",
    ]


def radii(results: Mapping[str, Any]) -> list[float]:
    """The radii of an audit, ascending.

    >>> radii({"detectors": [{"sets": {"scans": {"radii": [{"eps": 0.1}, {"eps": "inf"}]}}}]})
    [0.1, inf]
    """
    first = next(iter(results["detectors"][0]["sets"].values()))
    return [float(at["eps"]) for at in first["radii"]]


def _short(name: str, found: Sequence[Mapping[str, Any]]) -> Short:
    working = [at for at in found if at["verdict"] not in NOT_WORKING]
    if not working:
        return Short(name, 0, None, None, [(0, None)] * len(found[0]["radii"]))
    within = []
    for same in zip(*(at["radii"] for at in working), strict=True):
        passed = sum(at["rejected"] * at["rejected_pass"]["value"] for at in same if at["rejected"])
        rejected = sum(at["rejected"] for at in same)
        broken = sum(at["verdict"] == "broken" for at in same)
        within.append((broken, passed / rejected if rejected else None))
    return Short(
        name,
        len(working),
        median(at["before"]["fpr95_in_positive"]["value"] for at in working),
        sum(at["radii"][0]["rejected"] for at in working),
        within,
    )


def _line(found: Short) -> str:
    if found.passing is None or found.rejected is None:
        return line([cell(found.starts), "0", *["–"] * (2 + 2 * len(found.within))])
    cells = [cell(found.starts), str(found.working), f"{100 * found.passing:.0f} %", f"{found.rejected:,}"]
    for fallen, passing in found.within:
        cells += [str(fallen), "–" if passing is None else f"{100 * passing:.0f} %"]
    return line(cells)
