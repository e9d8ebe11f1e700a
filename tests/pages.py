"""The numbers that a page of a run may show, computed from its Parquet files with pandas."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SMALL = 0.001


class Expected:
    """The value of each number on the page of a run, by its key."""

    def __init__(self, run: Path, planned: int) -> None:
        self.frame = pd.read_parquet(run / "shards").set_index("row", drop=False)
        self.planned = planned
        groups = self.frame.groupby(["start_source", "eps"], sort=False)
        self.groups = [rows for _, rows in sorted(groups, key=lambda group: group[1].index[0])]
        self.strongest = self.frame[self.frame["eps"] == self.frame["eps"].max()]

    def __call__(self, key: str) -> float:
        kind, _, rest = key.partition("/")
        return float(getattr(self, f"_{kind}")(rest))

    def _rows(self, rest: str) -> Any:
        if rest in ("finished", "planned"):
            return {"finished": len(self.frame), "planned": self.planned}[rest]
        row, column, *place = rest.split("/")
        value = self.frame.loc[int(row), column]
        return value[int(place[-1])] if place else value

    def _verdict(self, rest: str) -> Any:
        rows = self.strongest
        if rest.startswith("starts/"):
            _, number, rest = rest.split("/")
            rows = rows[rows["start_source"] == rows["start_source"].unique()[int(number)]]
        classified = rows[rows["class_in"].notna()]
        return {
            "below": (rows["mape"] < SMALL).sum(),
            "count": len(rows),
            "before": _finite(rows["mape_before"]).median(),
            "median": _finite(rows["mape"]).median(),
            "class_taken": (classified["class_in"] == classified["class_out"]).sum(),
            "classified": len(classified),
        }[rest]

    def _groups(self, rest: str) -> Any:
        number, name = rest.split("/")
        rows = self.groups[int(number)]
        return {
            "eps": rows["eps"].iloc[0],
            "count": len(rows),
            "before": rows["mape_before"].median(),
            "float_median": rows["mape_float"].median(),
            "median": rows["mape"].median(),
            "lower": rows["mape"].quantile(0.25),
            "upper": rows["mape"].quantile(0.75),
            "below": (rows["mape"].dropna() < SMALL).mean(),
            "distance": rows["distance"].median(),
            "gradient_evaluations": rows["gradient_evaluations"].mean(),
            "class_taken": (rows["class_in"] == rows["class_out"]).mean(),
        }[name]

    def _charts(self, rest: str) -> Any:
        chart, series, *path = rest.split("/")
        if chart == "convergence":
            which, at = path
            histories = next(rows["history"] for rows in self.groups if _name(rows) == series)
            longest = max(map(len, histories))
            padded = np.stack([np.pad(one, (0, longest - len(one)), mode="edge") for one in histories])
            return np.quantile(padded[:, int(at)].astype(np.float64), _PLACES[which])
        if chart == "eps":
            which, at = path
            eps = sorted(self.frame["eps"].unique())[int(at)]
            rows = self.frame[(self.frame["eps"] == eps) & ("start " + self.frame["start_source"] == series)]
            return _finite(rows["mape"]).quantile(_PLACES[which])
        raise KeyError(rest)  # bars of histograms have a test of their own


_PLACES = {"low": 0.25, "value": 0.5, "high": 0.75}


def _finite(values: pd.Series) -> pd.Series:
    return values[np.isfinite(values.astype(float))]


def _name(rows: pd.DataFrame) -> str:
    return f"start {rows['start_source'].iloc[0]}, eps {rows['eps'].iloc[0]:.4g}"


def parse(text: str) -> float:
    """The number that a formatted number shows: the inverse of the page's formats, written independently."""
    plain = text.replace("\N{NO-BREAK SPACE}", " ").replace(",", "").replace("−", "-")
    if " × 10" in plain:
        mantissa, _, exponent = plain.removesuffix(" %").partition(" × 10")
        value = float(mantissa) * 10.0 ** int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    elif "/" in plain:
        value = int(plain.split("/")[0]) / int(plain.split("/")[1])
    else:
        value = float(plain.removesuffix(" %"))
    return value / 100 if plain.endswith(" %") else value
