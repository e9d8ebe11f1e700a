"""Plot MAPE against work and against time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.table import Row
from oodattack.report.numbers import eps_label
from oodattack.report.style import SMALL_MAPE
from oodattack.settings.ball import NORM_NAMES
from oodattack.storage.files import write_whole

# The colour-blind-safe palette of Okabe and Ito, with a different marker for each method.
STYLES = {
    "paper": ("#0072B2", "o", "paper, as published"),
    "paper-tuned": ("#56B4E9", "s", "paper, step tuned"),
    "adam-cosine": ("#009E73", "^", "Adam, cosine step, tuned"),
    "apgd": ("#E69F00", "P", "APGD"),
    "lbfgsb": ("#000000", "X", "L-BFGS-B"),
    "art-tuned": ("#CC79A7", "v", "ART, step tuned"),
    "fast": ("#D55E00", "D", "fast, default settings"),
}


def draw(rows: Sequence[Row], header: dict[str, Any]) -> Figure:
    """Draw median MAPE against evaluations and against seconds per image, with quartiles as bands (float)."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, axis in zip(panels, ("evaluations", "seconds"), strict=True):
        for label, (colour, marker, name) in STYLES.items():
            own_rows = [row for row in rows if row.label == label]
            if not own_rows:
                continue
            for sides, line in (([row.float for row in own_rows], "-"), ([row.saved for row in own_rows], "--")):
                x = [getattr(one, axis) for one in sides]
                lower, median, upper = zip(*(one.quartiles for one in sides), strict=True)
                first = line == "-"
                axes.plot(
                    x,
                    median,
                    line,
                    color=colour,
                    marker=marker,
                    markersize=5 if first else 3,
                    linewidth=1.8 if first else 1.0,
                    label=name if first else None,
                )
                if first:
                    axes.fill_between(x, lower, upper, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.axhline(SMALL_MAPE, color="black", linestyle=":", linewidth=1)
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for scale in (axes.xaxis, axes.yaxis):
            scale.set_major_formatter(lambda value, _: f"{value:g}")
            scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
            scale.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=11)
    panels[0].set_xlabel("gradient evaluations per image", fontsize=12)
    panels[1].set_xlabel("seconds per image", fontsize=12)
    panels[0].set_ylabel("MAPE in per cent (dotted: 0.1 %)", fontsize=12)
    handles, names = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="#555555", linestyle="--", linewidth=1.0))
    figure.legend(
        handles,
        [*names, "8-bit PNG, decoded (the better of rounding and search)"],
        loc="outside lower center",
        ncols=3,
        fontsize=10,
        frameon=False,
    )
    ball = f"{NORM_NAMES[header['norm']]} ball of {eps_label(header['eps'])}"
    what = f"{header['encoder'].partition(',')[0]}, {ball}, {len(header['images'])} images"
    figure.suptitle(f"Distance to the target latent: median and quartiles\n{what}", fontsize=12)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    FigureCanvasAgg(figure)
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=110))
