"""Histograms of the MAPE before and after the attack (Figs. 4, 5, 7, 8 and 10 of the paper)."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from oodattack.report.numbers import eps_label, percent_label
from oodattack.report.style import BEFORE, OUT, SMALL_MAPE, describe, entitle, log_if_decades
from oodattack.runs import Run


def histogram(run: Run) -> Figure:
    """Draw one panel per start and eps, with the MAPE of x'_out and of the decoded x_out, in per cent, on one axis."""
    table = run.read(["start_source", "eps", "mape", "mape_before"]).to_pylist()
    starts = list(dict.fromkeys(row["start_source"] for row in table))
    radii = list(dict.fromkeys(row["eps"] for row in table))
    # Many starts (a folder of images) share one panel, which then shows the attack's overall result.
    panels = [(start,) for start in starts] if len(starts) <= 6 else [tuple(starts)]
    cells = [(eps, names) for eps in radii for names in panels]
    wide = len(panels) if len(radii) > 1 else min(3, len(panels))
    high = math.ceil(len(cells) / wide)
    figure = Figure(figsize=(1.2 + 4.2 * wide, 1.1 + 2.9 * high), layout="constrained")
    entitle(figure, f"MAPE before and after the attack\n{describe(run.header)}", 12)
    grid = figure.subplots(high, wide, squeeze=False, sharex=True, sharey="row")
    everything = _percents(table, "mape", "mape_before")
    bins = _bins(everything)
    for first, line in zip(range(0, len(cells), wide), grid, strict=True):
        for axes, (eps, names) in zip(line, cells[first : first + wide], strict=False):
            rows = [row for row in table if row["eps"] == eps and row["start_source"] in names]
            before, after = _percents(rows, "mape_before"), _percents(rows, "mape")
            for values, colour, alpha, what in ((before, BEFORE, 1, "before"), (after, OUT, 0.85, "after (8-bit PNG)")):
                shown = values.clip(bins[0], bins[-1])  # a logarithmic axis has no 0; count it in the first bar
                axes.hist(shown, bins=bins, color=colour, alpha=alpha, label=f"{what}, median {_median(values)}")
            log_if_decades(axes, "x", everything)
            if bins[0] <= SMALL_MAPE <= bins[-1]:
                axes.axvline(SMALL_MAPE, color="black", linestyle=":", linewidth=1)
            undefined = len(rows) - len(after)
            note = f", {undefined} undefined" if undefined else ""
            name = names[0] if len(names) == 1 else f"{len(names)} starts"
            axes.set_title(f"start {name}, eps {eps_label(eps)}, {len(rows)} images{note}", fontsize=10)
            axes.legend(fontsize=8, loc="upper left")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.tick_params(labelsize=9, labelbottom=True)
        line[0].set_ylim(top=1.35 * line[0].get_ylim()[1])  # room for the legends
        line[0].set_ylabel("images", fontsize=10)
    for axes in grid.flat[len(cells) :]:
        axes.remove()
    figure.supxlabel("MAPE in per cent (dotted: 0.1 %)", fontsize=10)
    return figure


def _percents(rows: Sequence[dict[str, float]], *columns: str) -> np.ndarray:
    return np.array([100 * row[name] for name in columns for row in rows if row[name] is not None])


def _median(percents: np.ndarray) -> str:
    return percent_label(float(np.median(percents))) if len(percents) else "undefined"


def _bins(percents: np.ndarray) -> np.ndarray:
    positive = percents[percents > 0]
    if len(positive) == 0:
        return np.linspace(0, 1, 31)
    low, high = positive.min(), positive.max()
    if high >= 10 * low:
        return np.geomspace(low * 0.95, high * 1.05, 41)
    return np.linspace(0, high * 1.02, 31)
