"""The charts of a run: MAPE before and after, convergence, and MAPE against eps."""

import math
from collections.abc import Sequence

import numpy as np

from oodattack.report.numbers import count, count_label, eps_label, share
from oodattack.report.page.charts import Bars, Line, histogram, lines
from oodattack.report.page.charts.lines import COLOURS
from oodattack.report.page.charts.scale import round_step
from oodattack.report.page.elements import Figure
from oodattack.report.page.run_table import Row, RunTable, finite, quantiles
from oodattack.runs import Run
from oodattack.runs.summary import SMALL_MAPE

MAX_PANELS = 12


class Histograms:
    """Histograms of the MAPE over shared bins: one per start and eps, or a single one if they are many.

    Attributes:
        edges: borders of the bins, of which 0.1 % is one if the axis is logarithmic.
        log: whether the axis is logarithmic.
    """

    def __init__(self, table: RunTable) -> None:
        self.table = table
        both = [row[name] for row in table.rows for name in ("mape", "mape_before") if finite(row[name])]
        self.edges, self.log = bins([*both, SMALL_MAPE])
        self.apart = len(self.edges) - 1  # the number of the bar of what is not finite

    def chart(self, row: Row) -> str:
        """Name of the chart in which a row is."""
        return f"mape-{self.table.group(row) if len(self.table.groups) <= MAX_PANELS else 0}"

    def bar(self, value: float | None) -> int:
        """Number of the bar of a MAPE."""
        if value is None or not math.isfinite(value):
            return self.apart
        return int(np.clip(np.searchsorted(self.edges, value, side="right") - 1, 0, self.apart - 1))

    def draw(self) -> list[Figure]:
        """The charts."""
        groups: dict[str, list[Row]] = {}
        for row in self.table.rows:
            groups.setdefault(self.chart(row), []).append(row)
        return [self._draw(name, rows) for name, rows in groups.items()]

    def _draw(self, name: str, rows: Sequence[Row]) -> Figure:
        before, after = (self._count(rows, column) for column in ("mape_before", "mape"))
        starts = {row["start_source"] for row in rows}
        start = f"start {starts.pop()}" if len(starts) == 1 else count_label(len(starts), "start")
        radii = {row["eps"] for row in rows}
        eps = f", eps {eps_label(radii.pop())}" if len(radii) == 1 else f", {len(radii)} eps"
        below = sum(finite(row["mape"]) and row["mape"] < SMALL_MAPE for row in rows)
        return histogram(
            name,
            f"{start}{eps}",
            f"MAPE of {count_label(len(rows), 'image')} before and after the attack; {count(below)} below"
            f" {share(SMALL_MAPE)} after it.",
            edges=self.edges,
            bars=[
                Bars("before", "before", before[:-1], before[-1]),
                Bars("after, as PNG", "after", after[:-1], after[-1]),
            ],
            label="MAPE",
            text=share,
            log=self.log,
            buttons="after, as PNG",
            line=(SMALL_MAPE, share(SMALL_MAPE)),
        )

    def _count(self, rows: Sequence[Row], column: str) -> list[int]:
        bars = [self.bar(row[column]) for row in rows]
        return [bars.count(number) for number in range(self.apart + 1)]


def bins(values: Sequence[float]) -> tuple[list[float], bool]:
    """Borders of bins for some MAPEs, and whether they are logarithmic.

    >>> edges, log = bins([0.0005, 0.004])
    >>> edges[:3], edges[-1], log
    ([0.0, 0.0002, 0.0004], 0.0042, False)
    >>> edges, log = bins([0.00002, 0.4])
    >>> log, SMALL_MAPE in edges, edges[0] <= 0.00002, edges[-1] >= 0.4
    (True, True, True, True)
    """
    positive = [value for value in values if value > 0]
    if positive and max(positive) >= 10 * min(positive):
        decades = math.log10(max(positive) / min(positive))
        parts = 8 if decades < 2 else 5 if decades < 4 else 3  # bins per decade
        first = math.floor(parts * math.log10(min(positive)))
        last = math.floor(parts * math.log10(max(positive))) + 1
        return [float(f"{10 ** (number / parts):.12g}") for number in range(first, last + 1)], True
    highest = max(positive, default=1.0)
    step = round_step(highest / 20)
    return [float(f"{number * step:.12g}") for number in range(math.floor(highest / step) + 2)], False


def convergence(run: Run, table: RunTable, max_points: int = 120) -> Figure | None:
    """Median and quartiles of the MAPE after n gradient evaluations; None if there is no history."""
    groups: dict[int, list[np.ndarray]] = {}
    for number in run.done():  # one shard at a time, because a run may have many rows
        shard = run.read_shard(number, ["start_source", "eps", "history"])
        keys = zip(shard["start_source"].to_pylist(), shard["eps"].to_pylist(), strict=True)
        for key, history in zip(keys, shard["history"], strict=True):
            if history.is_valid and len(history.values):
                groups.setdefault(table.places[key], []).append(history.values.to_numpy())
    drawn = []
    for number, histories in sorted(groups.items())[:COLOURS]:
        longest = max(map(len, histories))
        values = np.stack([np.pad(history, (0, longest - len(history)), mode="edge") for history in histories])
        steps = np.unique(np.linspace(0, longest - 1, min(longest, max_points)).round().astype(int))
        low, middle, high = np.quantile(values[:, steps].astype(np.float64), [0.25, 0.5, 0.75], axis=0).tolist()
        drawn.append(Line(_name(table, number), steps.tolist(), middle, low, high))
    if not drawn:
        return None
    steps_of = "steps" if run.header["settings"].get("gradient") == "spsa" else "gradient evaluations"
    return lines(
        "convergence",
        f"Convergence: MAPE after n {steps_of}, median and quartiles",
        "The MAPE of the current image in floating point, over the steps of the winning try.",
        drawn=drawn,
        x_label=steps_of,
        y_label="MAPE",
        x_text=lambda step: count(round(step)),
        y_text=share,
        note=_left_out(len(groups)),
    )


def against_eps(table: RunTable) -> Figure | None:
    """Median and quartiles of the MAPE against eps; None if the run has a single one."""
    radii = sorted({row["eps"] for row in table.rows})
    if len(radii) < 2:
        return None
    values: dict[str, dict[float, list[float]]] = {}
    for row in table.rows:
        if finite(row["mape"]):
            values.setdefault(row["start_source"], {}).setdefault(row["eps"], []).append(row["mape"])
    drawn = []
    for start, by_eps in list(values.items())[:COLOURS]:
        places = [float(radii.index(eps)) for eps in sorted(by_eps)]
        low, middle, high = zip(*(quantiles(by_eps[eps]) for eps in sorted(by_eps)), strict=True)
        drawn.append(Line(f"start {start}", places, middle, low, high))
    if not drawn:
        return None
    return lines(
        "eps",
        "MAPE against eps, the radius of the ball, median and quartiles",
        "The MAPE of the PNGs for each radius.",
        drawn=drawn,
        x_label=f"eps ({table.norm}, pixels in [0, 1])",
        y_label="MAPE",
        x_text=lambda place: eps_label(radii[round(place)]),
        y_text=share,
        x_marks=list(map(float, range(len(radii)))),  # zero and infinity have no place on an axis of numbers
        note=_left_out(len(values)),
    )


def _name(table: RunTable, number: int) -> str:
    group = table.groups[number]
    return f"start {group.start}, eps {eps_label(group.eps)}"


def _left_out(groups: int) -> str:
    return f"The first {COLOURS} of {groups}." if groups > COLOURS else ""
