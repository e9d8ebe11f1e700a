"""An audit in one table: over all detectors that work, how many fall, and how many rejected images pass."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from oodattack.report.markdown import cell, head, line
from oodattack.report.numbers import eps_label

NOT_WORKING = ("blind", "too few starts")


def short_table(results: Mapping[str, Any]) -> list[str]:
    r"""Lines of Markdown: for each set of starts, figures over the detectors that work on it.

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
    rows = results["detectors"]
    names = list(rows[0]["sets"])
    radii = [eps_label(float(at["eps"])) for at in rows[0]["sets"][names[0]]["radii"]]
    headings = [heading for eps in radii for heading in (f"fallen at {eps}", "pass")]
    return [
        "## In short",
        "",
        "Over the detectors that work on a set of starts (neither blind nor with too few starts): the median share of"
        " the attacked starts that pass before; how many attacks have a start that the detector rejects; and for each"
        " eps how many detectors are broken, and the share of these attacks that pass.",
        "",
        *head(["from", "detectors that work", "starts that pass", "rejected starts", *headings]),
        *(_row(name, [row["sets"][name] for row in rows]) for name in names),
        "",
    ]


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    working = [at for at in found if at["verdict"] not in NOT_WORKING]
    if not working:
        return line([cell(name), "0", "–", "–", *["–"] * 2 * len(found[0]["radii"])])
    cells = [
        cell(name),
        str(len(working)),
        f"{100 * median(at['before']['fpr95_in_positive']['value'] for at in working):.0f} %",
        f"{sum(at['radii'][0]['rejected'] for at in working):,}",
    ]
    for within in zip(*(at["radii"] for at in working), strict=True):
        passed = sum(at["rejected"] * at["rejected_pass"]["value"] for at in within if at["rejected"])
        rejected = sum(at["rejected"] for at in within)
        fallen = sum(at["verdict"] == "broken" for at in within)
        cells += [str(fallen), f"{100 * passed / rejected:.0f} %" if rejected else "–"]
    return line(cells)
