"""Turn measurements into rows, ratios and a Markdown page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.attackers import Attacker
from benchmarks.measure import Results
from oodattack.report.style import SMALL_MAPE, eps_label
from oodattack.settings.ball import NORM_NAMES


@dataclass(frozen=True)
class Side:
    """The results of a method at one budget, for either floating-point images or saved 8-bit files.

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
    """A method at one budget, with its best step size."""

    label: str
    steps: int
    step_size: float | None
    at_the_edge: bool  # the best step is the first or last of the grid; a step outside the grid might be better
    float: Side
    saved: Side


def side(
    results: Results, name: str, step_size: float | None, steps: int, firsts: Sequence[int], *, saved: bool
) -> Side:
    """Combine the batches that start at ``firsts``, all of which must have been measured."""
    parts = [results.measured[name, step_size, steps, saved, first] for first in firsts]
    percent = 100 * np.array([value for part in parts for value in part.mape])
    return Side(
        percent,
        np.array([value for part in parts for value in part.distance]),
        # A backward pass costs about as much as two forward passes; one of each is one evaluation.
        sum(part.forwards + 2 * part.backwards for part in parts) / 3 / len(percent),
        sum(part.seconds for part in parts) / len(percent),
    )


def best_step(results: Results, attacker: Attacker, steps: int, firsts: Sequence[int]) -> float | None:
    """The step size with the lowest median float MAPE."""
    return min(attacker.step_sizes, key=lambda s: side(results, attacker.name, s, steps, firsts, saved=False).median)


def rows_of(results: Results, methods: Sequence[Attacker], budgets: Sequence[int], firsts: Sequence[int]) -> list[Row]:
    """Make one row for every budget and method."""
    rows = []
    for steps in budgets:
        for attacker in methods:
            step = best_step(results, attacker, steps, firsts)
            exact, saved = (side(results, attacker.name, step, steps, firsts, saved=s) for s in (False, True))
            grid = attacker.step_sizes
            edge = len(grid) > 1 and step in (grid[0], grid[-1])
            rows.append(Row(attacker.label, steps, step, edge, exact, saved))
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

MAPE is in per cent. "8-bit" is the decoded PNG, from a separate run with the same number of evaluations, of which
`fast` reserves a third, at most 50, for its grid search. An evaluation is a forward and a backward pass of one image;
a forward pass alone counts as a third. A tuned method uses the best of several steps for each row, and the search is
not counted; * marks a step at the end of its grid.

## Ratios

Median MAPE of the other method divided by that of `fast` at the same budget; and the smallest measured budget with
which `fast` is as close as the other method (float), with the work and time that this saves.

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
    for row in rows:
        if row.label == "fast" or row.steps not in ours:
            continue
        fast = ours[row.steps]
        closer = [_times(row.float.median, fast.float.median), _times(row.saved.median, fast.saved.median)]
        as_close = [ours[steps] for steps in sorted(ours) if ours[steps].float.median <= row.float.median]
        saving = ["-", "-", "-"]
        if as_close:
            cheapest = as_close[0].float
            saving = [
                str(as_close[0].steps),
                _times(row.float.evaluations, cheapest.evaluations),
                _times(row.float.seconds, cheapest.seconds),
            ]
        lines.append(f"| {row.steps} | `{row.label}` | {' | '.join((*closer, *saving))} |")
    return "\n".join(lines)


def _measurements(rows: Sequence[Row]) -> str:
    lines = [
        "| budget | method | step | evaluations | ms | float | quartiles | below 0.1 % | distance "
        "| 8-bit | quartiles | below 0.1 % | distance | evaluations |",
        "|" + "---|" * 14,
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
        for results in (row.float, row.saved):
            lower, median, upper = results.quartiles
            cells += [f"{median:.3g}", f"{lower:.3g} – {upper:.3g}", f"{results.small:.0f} %"]
            cells.append(f"{np.median(results.distance):.3g}")
        cells.append(f"{row.saved.evaluations:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(more: float, less: float) -> str:
    return f"{more / less:.1f}" if less > 0 else "-"
