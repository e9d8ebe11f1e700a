"""Summarise a run in a few numbers per group of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oodattack.runs.run import Run

SMALL_MAPE = 0.001  # 0.1 %, below which the paper calls a MAPE small (Section III-A)


@dataclass(frozen=True)
class Group:
    """The rows that share a start source and eps. MAPEs are fractions; undefined ones are excluded."""

    start: str
    eps: float
    count: int
    undefined: int
    before: float  # median MAPE of the start
    float_median: float  # median before rounding to 8 bits
    median: float  # median of the decoded PNG, and its quartiles
    lower: float
    upper: float
    worst_part: float  # median over the decoded PNGs of the MAPE of their worst layer
    below: float  # fraction of decoded PNGs with a MAPE below 0.1 %
    distance: float  # median distance of the decoded PNG to its start
    gradient_evaluations: float  # mean per sample
    class_taken: float | None  # fraction of x_out with the top-1 class of x_in; None without classes


def summarize(run: Run) -> list[Group]:
    """Group a run's rows by start source and eps, in the order of the run.

    Raises:
        InputError: if a shard is damaged.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.attack import run_attack
    >>> from oodattack.settings.attack import AttackSettings
    >>> f = "python:torch.nn:Flatten,size=8,layer=output"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     settings = AttackSettings(
    ...         encoder=f, images="torchvision:FakeData", limit=2, start=("noise",), steps=3, out=Path(out) / "run"
    ...     )
    ...     [(group.start, group.eps, group.count) for group in summarize(run_attack(settings))]
    [('noise', 5.0, 2)]
    """
    columns = [
        *("start_source", "eps", "mape", "mape_float", "mape_before", "distance", "gradient_evaluations"),
        *("class_in", "class_out", "mape_parts"),
    ]
    rows = run.read(columns).to_pylist()
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["start_source"], row["eps"]), []).append(row)
    return [_group(start, eps, rows) for (start, eps), rows in groups.items()]


def _group(start: str, eps: float, rows: list[Mapping[str, Any]]) -> Group:
    def values(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows if row[name] is not None], dtype=np.float64)

    mape = values("mape")
    classified = [row for row in rows if row["class_in"] is not None]
    return Group(
        start=start,
        eps=eps,
        count=len(rows),
        undefined=len(rows) - len(mape),
        before=_quantile(values("mape_before"), 0.5),
        float_median=_quantile(values("mape_float"), 0.5),
        median=_quantile(mape, 0.5),
        lower=_quantile(mape, 0.25),
        upper=_quantile(mape, 0.75),
        worst_part=_quantile(np.array([_worst(row) for row in rows if row["mape"] is not None]), 0.5),
        below=float((mape < SMALL_MAPE).mean()) if len(mape) else float("nan"),
        distance=_quantile(values("distance"), 0.5),
        gradient_evaluations=float(values("gradient_evaluations").mean()),
        class_taken=(
            sum(row["class_in"] == row["class_out"] for row in classified) / len(classified) if classified else None
        ),
    )


def _worst(row: Mapping[str, Any]) -> float:
    return max((part for part in row["mape_parts"] if part is not None), default=float("nan"))


def _quantile(values: np.ndarray, q: float) -> float:
    if not len(values):
        return float("nan")
    with np.errstate(invalid="ignore"):
        found = float(np.quantile(values, q))
    # Between two infinities, linear interpolation gives NaN.
    return float(np.quantile(values, q, method="lower")) if np.isnan(found) else found
