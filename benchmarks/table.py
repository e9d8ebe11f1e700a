"""From results to rows, ratios and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.attackers import Attacker
from benchmarks.measure import Results
from oodattack.report.style import SMALL, eps_label
from oodattack.settings.ball import NORM_NAMES


@dataclass(frozen=True)
class Side:
    """A method's images at one budget, either in floating point or saved as 8-bit files.

    Attributes:
        percent: (B,) MAPE in per cent.
        distance: (B,).
        evaluations: gradient evaluations an image, a forward pass alone counted as a third of one.
        seconds: wall time an image.
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
        """Share of MAPE below 0.1 %, in per cent."""
        return float(100 * np.mean(self.percent < SMALL))


@dataclass(frozen=True)
class Row:
    """A method at one budget, with the step that served it best."""

    label: str
    steps: int
    step_size: float | None
    at_the_edge: bool  # the best step is the first or last of the grid: beyond it there may be a better one
    float: Side
    saved: Side


def side(
    results: Results, name: str, step_size: float | None, steps: int, firsts: Sequence[int], *, saved: bool
) -> Side:
    """The batches that begin at ``firsts``, put together; all of them must have been measured."""
    parts = [results.measured[name, step_size, steps, saved, first] for first in firsts]
    percent = 100 * np.array([value for part in parts for value in part.mape])
    return Side(
        percent,
        np.array([value for part in parts for value in part.distance]),
        # A backward pass costs about two forward ones: forward and backward together are one evaluation.
        sum(part.forwards + 2 * part.backwards for part in parts) / 3 / len(percent),
        sum(part.seconds for part in parts) / len(percent),
    )


def best_step(results: Results, attacker: Attacker, steps: int, firsts: Sequence[int]) -> float | None:
    """The step of the lowest median float MAPE."""
    return min(attacker.step_sizes, key=lambda s: side(results, attacker.name, s, steps, firsts, saved=False).median)


def rows_of(results: Results, methods: Sequence[Attacker], budgets: Sequence[int], firsts: Sequence[int]) -> list[Row]:
    """One row for every budget and method."""
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
    """Markdown: what was compared, the ratios, and the figures behind them."""
    told = header["machine"]
    ball = f"{NORM_NAMES[header['norm']]} ball of {eps_label(header['eps'])}"
    return f"""\
# `fast` against other methods

- encoder `{header["encoder"]}`, z = {header["layer"]}, {header["latent_dim"]} dimensions
- {len(header["images"])} images in batches of {header["batch_size"]}, start {header["start"]}, {ball}
- {told["cpu"]}, {told["cores"]} cores, {told["threads"]} threads, torch {told["torch"]}, seed {header["seed"]}

MAPE is in per cent. "8-bit" is the PNG after decoding, in a run of its own of the same number of evaluations: `fast`
keeps a third of them, at most 50, for its search on the grid. An evaluation is a forward and a backward
pass of one image; a forward pass alone counts as a third. A tuned method has the best of several steps for each
row, and the search is not counted; * marks a step at the end of its grid.

## Ratios

Median MAPE of the other method divided by that of `fast` at the same budget; and the least of the measured budgets with
which `fast` is as close as the other method (float), with the work and the time that this saves.

{_ratios(rows)}

## Figures

{_figures(rows)}
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
        mine = ours[row.steps]
        closer = [_times(row.float.median, mine.float.median), _times(row.saved.median, mine.saved.median)]
        enough = [ours[steps] for steps in sorted(ours) if ours[steps].float.median <= row.float.median]
        saving = ["-", "-", "-"]
        if enough:
            less = enough[0].float
            saving = [
                str(enough[0].steps),
                _times(row.float.evaluations, less.evaluations),
                _times(row.float.seconds, less.seconds),
            ]
        lines.append(f"| {row.steps} | `{row.label}` | {' | '.join((*closer, *saving))} |")
    return "\n".join(lines)


def _figures(rows: Sequence[Row]) -> str:
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
        for figures in (row.float, row.saved):
            lower, median, upper = figures.quartiles
            cells += [f"{median:.3g}", f"{lower:.3g} – {upper:.3g}", f"{figures.small:.0f} %"]
            cells.append(f"{np.median(figures.distance):.3g}")
        cells.append(f"{row.saved.evaluations:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(more: float, less: float) -> str:
    return f"{more / less:.1f}" if less > 0 else "-"
