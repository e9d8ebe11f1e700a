"""The results of an audit in one line, and as a table for notebooks."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from oodattack.auditing.verdict import VERDICTS, worst_set
from oodattack.core.notebook import html_table

_HEADINGS = ("detector", "verdict", "worst from", "AUROC before", "under attack", "95 %", "at eps")


def one_line(results: Mapping[str, Any]) -> str:
    """How many detectors have each verdict.

    >>> one_line({"subject": {"encoder": "net"}, "detectors": [{"verdict": "held"}, {"verdict": "broken"}]})
    'net, 2 detectors: 1 broken, 1 held'
    """
    rows = results["detectors"]
    counts = Counter(row["verdict"] for row in rows)
    found = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"{results['subject']['encoder']}, {len(rows)} detector{'s' * (len(rows) != 1)}: {found}"


def table(results: Mapping[str, Any]) -> str:
    """Every detector on the set of starts on which it did worst, in HTML; those that withstood most come first.

    >>> share = {"value": 0.5, "low": 0.4, "high": 0.6}
    >>> found = {"before": {"auroc": share}, "radii": [{"eps": 5.0, "auroc": share}]}
    >>> row = {"name": "<b>", "verdict": "bent", "verdict_of": ["mnist"], "sets": {"mnist": found}}
    >>> results = {"subject": {"encoder": "net"}, "detectors": [row], "absent": [], "failures": {}}
    >>> "<td>&lt;b&gt;</td><td>bent</td><td>mnist</td><td>0.500</td>" in table(results)
    True
    """
    rows = []
    for row in results["detectors"]:
        worst = worst_set(row)
        found = row["sets"][worst]
        last = found["radii"][-1]
        auroc = last["auroc"]
        interval = f"{auroc['low']:.3f} to {auroc['high']:.3f}"
        before = f"{found['before']['auroc']['value']:.3f}"
        eps = f"{float(last['eps']):.4g}"
        rows.append((row["name"], row["verdict"], worst, before, f"{auroc['value']:.3f}", interval, eps))
    left_out = [f"{absent['name']} left out: {absent['reason']}" for absent in results["absent"]]
    failed = [f"{attack} failed: {reason}" for attack, reason in results["failures"].items()]
    return html_table(f"Audit of {one_line(results)}", _HEADINGS, rows, "; ".join([*left_out, *failed]))
