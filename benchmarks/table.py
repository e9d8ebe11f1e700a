"""Turn measurements into rows, ratios and a Markdown page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.attackers import MAX_SEARCH, Attacker
from benchmarks.measure import Results
from benchmarks.ratio import FLOOR, paired_ratio
from oodattack.report.numbers import eps_label
from oodattack.report.style import SMALL_MAPE
from oodattack.settings.ball import NORM_NAMES


@dataclass(frozen=True)
class Side:
    """The results of a method at one budget: in floating point, as a PNG that was rounded, or as one with the search.

    Attributes:
        percent: (B,) MAPE in per cent.
        distance: (B,) distance from the start, in the norm of the ball.
        evaluations: gradient evaluations per image; a forward pass alone counts as a third.
        seconds: wall-clock time per image.
    """

    percent: np.ndarray
    distance: np.ndarray
    evaluations: float
    seconds: float

    @property
    def quartiles(self) -> np.ndarray:
        """Lower quartile, median and upper quartile of MAPE, in per cent."""
        return np.asarray(np.quantile(self.percent, [0.25, 0.5, 0.75]))

    @property
    def median(self) -> float:
        """Median MAPE in per cent."""
        return float(np.median(self.percent))

    @property
    def small(self) -> float:
        """Percentage of images with a MAPE below 0.1 %."""
        return float(100 * np.mean(self.percent < SMALL_MAPE))


@dataclass(frozen=True)
class Row:
    """A method at one budget, with its best step size.

    Attributes:
        label: the method.
        steps: the budget.
        step_size: the step size used; None is the method's own.
        at_the_edge: whether it is the first or last of its grid, so that a step outside might be better.
        float: the images in floating point.
        rounded: their PNG files.
        searched: the PNG files of runs that spend a part of the budget on the search on the grid.
    """

    label: str
    steps: int
    step_size: float | None
    at_the_edge: bool
    float: Side
    rounded: Side
    searched: Side

    @property
    def saved(self) -> Side:
        """The better of the two kinds of PNG files."""
        return min(self.rounded, self.searched, key=lambda side: side.median)


def side(
    results: Results, attacker: Attacker, step: float | None, steps: int, firsts: Sequence[int], kind: str
) -> Side:
    """Combine the batches that start at ``firsts``, all of which must have been measured.

    Args:
        results: the measurements.
        attacker: the method.
        step: its step size.
        steps: the budget.
        firsts: index of the first image of each batch.
        kind: "float", "rounded" or "searched" (`Row`).
    """
    parts = [results.measured[attacker.name, step, steps, kind == "searched", first] for first in firsts]
    figures = [(part.mape, part.distance) if kind == "float" else (part.png_mape, part.png_distance) for part in parts]
    percent = 100 * np.concatenate([np.array(mape) for mape, _ in figures])
    return Side(
        percent,
        np.concatenate([np.array(distance) for _, distance in figures]),
        # A backward pass costs about as much as two forward passes; one of each is one evaluation.
        sum(part.forwards + 2 * part.backwards for part in parts) / 3 / len(percent),
        sum(part.seconds for part in parts) / len(percent),
    )


def best_step(results: Results, attacker: Attacker, steps: int) -> float | None:
    """The step size with the lowest median float MAPE in the first batch."""
    return min(attacker.step_sizes, key=lambda step: side(results, attacker, step, steps, [0], "float").median)


def rows_of(results: Results, methods: Sequence[Attacker], budgets: Sequence[int], firsts: Sequence[int]) -> list[Row]:
    """Make one row for every budget and method."""
    rows = []
    for steps in budgets:
        for attacker in methods:
            step = best_step(results, attacker, steps)
            kinds = [side(results, attacker, step, steps, firsts, kind) for kind in ("float", "rounded", "searched")]
            grid = attacker.step_sizes
            edge = len(grid) > 1 and step in (grid[0], grid[-1])
            rows.append(Row(attacker.label, steps, step, edge, *kinds))
    return rows


def page(rows: Sequence[Row], header: dict[str, Any]) -> str:
    """Write the Markdown page: what was compared, the ratios, and the measurements behind them."""
    machine = header["machine"]
    ball = f"{NORM_NAMES[header['norm']]} ball of {eps_label(header['eps'])}"
    return f"""\
# `fast` against other methods

- encoder `{header["encoder"]}`, z = {header["layer"]}, {header["latent_dim"]} dimensions
- {len(header["images"])} images in batches of {header["batch_size"]}, start {header["start"]}, {ball}
- {machine["cpu"]}, {machine["cores"]} cores, {machine["threads"]} threads
- torch {machine["torch"]}, seed {header["seed"]}

MAPE is in per cent. "Rounded" is the decoded PNG of the image in floating point; "searched" is that of a separate run
with the same number of evaluations, of which every method reserves a third, at most {MAX_SEARCH}, for our search on the
grid. An evaluation is a forward and a backward pass of one image; a forward pass alone counts as a third. A tuned
method uses the best of several steps for each budget, chosen on the first batch, and that choice is not counted; *
marks a step at the end of its grid.

## Ratios

MAPE of the other method divided by that of `fast` at the same budget: geometric mean over the images, with its 95 %
interval (paired bootstrap). MAPEs count as at least {FLOOR:g} %, the noise of float32. "8-bit" compares the better kind
of PNG of each. "Best" is the best of the others, by median. Then the smallest measured budget with which `fast` is as
close as the other method (float, median), with the work and time that this saves.

{_ratios(rows)}

## Measurements

{_measurements(rows)}
"""


def _ratios(rows: Sequence[Row]) -> str:
    lines = [
        "| budget | against | float: times closer | 8-bit: times closer "
        "| as close with | times less work | times less time |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {row.steps: row for row in rows if row.label == "fast"}
    for steps, fast in ours.items():
        others = [row for row in rows if row.steps == steps and row.label != "fast"]
        for row in others:
            as_close = [ours[cheap] for cheap in sorted(ours) if ours[cheap].float.median <= row.float.median]
            saving = ["-", "-", "-"]
            if as_close:
                cheapest = as_close[0].float
                saving = [
                    str(as_close[0].steps),
                    f"{row.float.evaluations / cheapest.evaluations:.1f}",
                    f"{row.float.seconds / cheapest.seconds:.1f}",
                ]
            cells = (f"`{row.label}`", *closer(row, row, fast), *saving)
            lines.append(f"| {steps} | {' | '.join(cells)} |")
        if len(others) > 1:
            best = best_of(others)
            names = ", ".join(dict.fromkeys(f"`{row.label}`" for row in best))
            lines.append(f"| {steps} | **best** ({names}) | {' | '.join(closer(*best, fast))} | | | |")
    return "\n".join(lines)


def best_of(rows: Sequence[Row]) -> tuple[Row, Row]:
    """The methods with the lowest medians: in floating point, and as a PNG."""
    return min(rows, key=lambda row: row.float.median), min(rows, key=lambda row: row.saved.median)


def closer(by_float: Row, by_saved: Row, fast: Row) -> tuple[str, str]:
    """How many times closer `fast` is than one method in floating point, and than another as a PNG."""
    return (
        str(paired_ratio(by_float.float.percent, fast.float.percent)),
        str(paired_ratio(by_saved.saved.percent, fast.saved.percent)),
    )


def _measurements(rows: Sequence[Row]) -> str:
    lines = [
        "| budget | method | step | evaluations | ms | float | quartiles | below 0.1 % | distance "
        "| rounded | searched | quartiles | below 0.1 % | distance | evaluations |",
        "|" + "---|" * 15,
    ]
    for row in rows:
        step = "own" if row.step_size is None else f"{row.step_size:.3g}" + "*" * row.at_the_edge
        cells = [
            str(row.steps),
            f"`{row.label}`",
            step,
            f"{row.float.evaluations:.1f}",
            f"{1000 * row.float.seconds:.3g}",
        ]
        for results in (row.float, row.searched):
            lower, median, upper = results.quartiles
            cells += [f"{median:.3g}", f"{lower:.3g} – {upper:.3g}", f"{results.small:.0f} %"]
            cells.append(f"{np.median(results.distance):.3g}")
            if results is row.float:
                cells.append(f"{row.rounded.median:.3g}")
        cells.append(f"{row.searched.evaluations:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
