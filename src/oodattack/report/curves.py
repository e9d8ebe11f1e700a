"""MAPE against the number of gradient evaluations, and against eps."""

from collections.abc import Sized

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oodattack.report.numbers import eps_label
from oodattack.report.style import COLOURS, SMALL_MAPE, describe, entitle, log_if_decades
from oodattack.runs import Run

Key = tuple[str, float]
FIGURE_INCHES = (9, 5.2)


def convergence(run: Run) -> Figure | None:
    """Draw the MAPE of the current image (float) after n steps: median and quartiles over the samples.

    A sample that has stopped keeps its last value. Returns None if every MAPE is undefined.
    """
    groups: dict[Key, list[np.ndarray]] = {}
    for number in run.done():  # one shard at a time, as arrays, because a run may have many rows
        shard = run.read_shard(number, ["start_source", "eps", "history"])
        keys = zip(shard["start_source"].to_pylist(), shard["eps"].to_pylist(), strict=True)
        for key, history in zip(keys, shard["history"], strict=True):
            if history.is_valid and len(history.values):
                groups.setdefault(key, []).append(100 * history.values.to_numpy())
    if not groups:  # every MAPE is undefined
        return None
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axes = figure.subplots()
    for number, (key, histories) in enumerate(list(groups.items())[: len(COLOURS)]):
        longest = max(map(len, histories))
        values = np.stack([np.pad(history, (0, longest - len(history)), mode="edge") for history in histories])
        _band(axes, np.arange(longest), values, COLOURS[number], _label(key, len(values)))
    spsa = run.header["settings"]["gradient"] == "spsa"
    what = "steps" if spsa else "gradient evaluations"
    axes.set_xlabel(f"{what} of the winning restart", fontsize=11)
    _finish(figure, axes, run, f"Convergence: MAPE of the current image, median and quartiles{_left_out(groups)}")
    return figure


def mape_against_eps(run: Run) -> Figure | None:
    """Draw the MAPE of the decoded PNG against eps: median and quartiles; None if the run has a single eps."""
    groups: dict[Key, list[float]] = {}
    for row in run.read(["start_source", "eps", "mape"]).to_pylist():
        if row["mape"] is not None:
            groups.setdefault((row["start_source"], row["eps"]), []).append(100 * row["mape"])
    radii = sorted({eps for _, eps in groups})
    if len(radii) < 2:
        return None
    starts = list(dict.fromkeys(start for start, _ in groups))
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axes = figure.subplots()
    # Zero and infinity cannot be placed on the axis; with them, the radii are evenly spaced categories.
    numeric = all(0 < eps < float("inf") for eps in radii)
    for number, start in enumerate(starts[: len(COLOURS)]):
        own_radii = [eps for eps in radii if (start, eps) in groups]
        x = np.array([eps if numeric else radii.index(eps) for eps in own_radii])
        quartiles = np.array([np.quantile(groups[start, eps], [0.25, 0.5, 0.75]) for eps in own_radii]).T
        axes.plot(x, quartiles[1], marker="o", color=COLOURS[number], label=f"start {start}")
        axes.fill_between(x, quartiles[0], quartiles[2], color=COLOURS[number], alpha=0.15, linewidth=0)
    if numeric:
        log_if_decades(axes, "x", np.array(radii))
    axes.minorticks_off()
    axes.set_xticks(radii if numeric else range(len(radii)), [eps_label(eps) for eps in radii])
    axes.set_xlabel("eps, radius of the ball (pixels in [0, 1])", fontsize=11)
    _finish(figure, axes, run, f"MAPE of the decoded PNG against eps, median and quartiles{_left_out(starts)}")
    return figure


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    axes.plot(x, median, color=colour, label=label)
    axes.fill_between(x, lower, upper, color=colour, alpha=0.15, linewidth=0)


def _finish(figure: Figure, axes: Axes, run: Run, title: str) -> None:
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines] or [np.ones(1)])
    if not log_if_decades(axes, "y", drawn):
        axes.set_ylim(bottom=0)
    if axes.get_ylim()[0] <= SMALL_MAPE <= axes.get_ylim()[1]:
        axes.axhline(SMALL_MAPE, color="black", linestyle=":", linewidth=1)
    axes.set_ylabel("MAPE in per cent (dotted: 0.1 %)", fontsize=11)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.legend(fontsize=9)
    entitle(figure, f"{title}\n{describe(run.header)}", 11)


def _label(key: Key, count: int) -> str:
    return f"start {key[0]}, eps {eps_label(key[1])} ({count} images)"


def _left_out(groups: Sized) -> str:
    count = len(groups)
    return f" (first {len(COLOURS)} of {count} groups)" if count > len(COLOURS) else ""
