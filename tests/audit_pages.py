"""The numbers that a page of an audit may show, computed from results.json and scores.parquet."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from tests.pages import parse

NOT_WORKING = ("blind", "too few starts")


class ExpectedAudit:
    """The value of each number on the page of an audit, by its key; cells are numbered detector by detector."""

    def __init__(self, audit: Path) -> None:
        self.results: dict[str, Any] = json.loads((audit / "results.json").read_text())
        self.scores = pd.read_parquet(audit / "scores.parquet")
        detectors = self.results["detectors"]
        self.eps = [float(at["eps"]) for at in next(iter(detectors[0]["sets"].values()))["radii"]]
        self.cells = [(row, name, eps) for row in detectors for name in row["sets"] for eps in self.eps]

    def __call__(self, key: str) -> Any:
        kind, _, rest = key.partition("/")
        return getattr(self, f"_{kind}")(rest)

    def limit(self, cell: int) -> float:
        """The lowest score that 95 % of the held-out images do not exceed."""
        inside = np.sort(self.scores_of(self.cells[cell][0]["name"], "in"))
        return float(inside[int(np.ceil(0.95 * len(inside))) - 1])

    def before(self, cell: int) -> np.ndarray:
        """The scores of the starts of a cell, row by row."""
        row, name, _ = self.cells[cell]
        return np.asarray(np.resize(self.scores_of(row["name"], name), self.results["sets"]["targets"]))

    def after(self, cell: int) -> np.ndarray:
        """The lowest scores that attacks within the ball reached."""
        row, name, eps = self.cells[cell]
        found = [self.before(cell)]
        for key, at in row["attacked"].items():
            if at["starts"] == name and float(at["eps"]) <= eps:
                found.append(self.scores_of(row["name"], key))
        return np.asarray(np.minimum.reduce(found))

    def scores_of(self, detector: str, images: str) -> np.ndarray:
        """The scores that a detector gives to a set, or to the images of an attack, row by row."""
        chosen = self.scores[(self.scores["detector"] == detector) & (self.scores["set"] == images)]
        return np.asarray(chosen.sort_values("row")["score"])

    def _results(self, rest: str) -> Any:
        return at_pointer(self.results, rest)

    def _scores(self, rest: str) -> float:
        cell, what, *row = rest.split("/")
        found = getattr(self, what)(int(cell))
        return float(found[int(row[0])] if row else found)

    def _verdict(self, rest: str) -> Any:
        rows = self.results["detectors"]
        falls = [
            (float(found["falls_at"]), row["name"])
            for row in rows
            for found in row["sets"].values()
            if row["verdict"] == "broken" and found["falls_at"] is not None
        ]
        first = min(falls)[0] if falls else None
        return {
            "working": sum(row["verdict"] not in NOT_WORKING for row in rows),
            "broken": sum(row["verdict"] == "broken" for row in rows),
            "first": first,
            "first_count": len({name for eps, name in falls if eps == first}),
        }[rest]

    def _short(self, rest: str) -> Any:
        starts, what, *number = rest.split("/")
        found = [row["sets"][starts] for row in self.results["detectors"]]
        found = [one for one in found if one["verdict"] not in NOT_WORKING]
        if what == "working":
            return len(found)
        if not found:
            return 0 if what == "broken" else None
        if what == "passing":
            return median(one["before"]["fpr95_in_positive"]["value"] for one in found)
        if what == "rejected":
            return sum(one["radii"][0]["rejected"] for one in found)
        at = [one["radii"][int(number[0])] for one in found]
        if what == "broken":
            return sum(one["verdict"] == "broken" for one in at)
        passed = [one["rejected"] * one["rejected_pass"]["value"] for one in at if one["rejected"]]
        rejected = sum(one["rejected"] for one in at)
        return sum(passed) / rejected if rejected else None

    def _charts(self, rest: str) -> Any:
        chart, series, which, place = rest.split("/")
        found = self.results["detectors"][int(chart.removeprefix("auroc-"))]["sets"][series]
        return [found["before"], *found["radii"]][int(place)]["auroc"][which]


def at_pointer(document: Mapping[str, Any], pointer: str) -> Any:
    """What stands at a JSON pointer."""
    found: Any = document
    for part in pointer.split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def assert_shows(expected: Any, key: str, value: str, text: str) -> None:
    """The exact value is the expected one, and the text is that value, rounded in its last digit."""
    if expected is None or expected == "inf" or not np.isfinite(expected):
        assert value == "", key
        assert text in ("undefined", "infinite", "inf", "−infinite"), key
        return
    assert abs(float(value) - expected) <= 1e-12 * abs(expected), key
    decimals = len(text.partition(".")[2].split("\N{NO-BREAK SPACE}")[0])
    unit = 10.0 ** -(decimals + 2 * text.endswith("%"))
    assert abs(parse(text) - expected) <= max(5.1e-3 * abs(expected), 0.500001 * unit), key
