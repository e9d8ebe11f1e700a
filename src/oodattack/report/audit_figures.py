"""The figures of an audit."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from oodattack.auditing.data import in_turn
from oodattack.auditing.store import Audit
from oodattack.report.draw import save
from oodattack.report.numbers import eps_label
from oodattack.report.style import BEFORE, COLOURS, IN, OUT, entitle
from oodattack.settings.ball import NORM_NAMES

Row = Mapping[str, Any]
Scores = Mapping[tuple[str, str], Tensor]


def draw_audit(audit: Audit, folder: Path) -> list[Path]:
    """Draw a finished audit.

    Args:
        audit: the audit.
        folder: the folder to write the PNG files to.

    Returns:
        The files: ``heatmap.png``, ``auroc.png`` and ``pass.png`` (against eps), ``histograms.png``, ``roc.png``; with
        budgets also ``budget.png``.

    Raises:
        InputError: if the audit is not finished, or the folder cannot be written to.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.pipelines.audit import run_audit
    >>> from oodattack.settings import AuditSettings
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         held_out=9, fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     [path.name for path in draw_audit(audit, Path(folder) / "figures")]
    ['heatmap.png', 'auroc.png', 'pass.png', 'histograms.png', 'roc.png']
    """
    results, scores = audit.read_results(), audit.read_scores()
    rows, settings = results["detectors"], results["settings"]
    described = (
        f"{settings['encoder'].partition(',')[0]}, {NORM_NAMES[settings['norm']]} ball, {settings['steps']} steps,"
        f" {results['sets']['targets']} attacks from each set"
    )
    largest = f"eps {eps_label(max(map(float, settings['eps'])))}"
    with rc_context({"text.parse_math": False}):
        figures = {
            "heatmap": _heatmap(rows, f"AUROC before (0) and under the strongest attack within eps\n{described}"),
            "auroc": _panels(
                rows,
                lambda axes, row: _against_eps(axes, row, "auroc"),
                f"AUROC against eps (0: before), with 95 % intervals\n{described}",
                "eps, pixels in [0, 1]",
                "AUROC",
            ),
            "pass": _panels(
                rows,
                lambda axes, row: _against_eps(axes, row, "fpr95_in_positive"),
                "Share of images that pass at the threshold that accepts 95 % of in-distribution images, against eps"
                f" (0: before)\n{described}",
                "eps, pixels in [0, 1]",
                "share that passes",
            ),
            "histograms": _panels(
                rows,
                lambda axes, row: _histogram(axes, row, _pooled(row, scores)),
                f"Scores of held-out in-distribution images, of starts of all sets, and under the strongest attack at"
                f" {largest}\n{described}",
                "score, from the 1st to the 99th percentile of all; dotted: threshold",
                "share of images",
            ),
            "roc": _panels(
                rows,
                lambda axes, row: _roc(axes, _pooled(row, scores)),
                f"ROC on the starts of all sets, and under the strongest attack at {largest}, OOD positive"
                f"\n{described}",
                "share of in-distribution images flagged",
                "share of OOD images flagged",
            ),
        }
        if settings["budget"]:
            figures["budget"] = _panels(
                rows,
                _against_budget,
                f"AUROC at {largest} against the number of steps (0: before)\n{described}",
                "steps in floating point",
                "AUROC",
            )
        return [save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _pooled(row: Row, scores: Scores) -> dict[str, np.ndarray]:
    """The scores of held-out images, and over all sets those of the starts and of the lowest within the largest eps."""
    name = row["name"]
    before, after = [], []
    for starts in row["sets"]:
        attacks = [key for key, attack in row["attacked"].items() if attack["starts"] == starts]
        before.append(scores[name, starts].numpy())
        if attacks:
            found = np.stack([scores[name, key].numpy() for key in attacks])
            after.append(np.minimum(found.min(0), in_turn(scores[name, starts], found.shape[1]).numpy()))
    return {
        "in": scores[name, "in"].numpy(),
        "before": np.concatenate(before),
        "after": np.concatenate(after) if after else np.zeros(0),
    }


def _heatmap(rows: Sequence[Row], title: str) -> Figure:
    """One row per detector; for each set of starts, a block of columns: before the attack, and each eps."""
    names = list(rows[0]["sets"])
    radii = ["0", *(eps_label(float(at["eps"])) for at in rows[0]["sets"][names[0]]["radii"])]
    values = np.array(
        [
            [
                value
                for found in row["sets"].values()
                for value in (found["clean"]["auroc"]["value"], *(at["auroc"]["value"] for at in found["radii"]))
            ]
            for row in rows
        ]
    )
    wide, high = values.shape[1], len(rows)
    figure = Figure(figsize=(4.2 + 0.42 * wide, max(3, 1.8 + 0.3 * high)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlBu", aspect="auto")
    axes.set_xticks(range(wide), radii * len(names), fontsize=8)
    axes.xaxis.tick_top()
    for block, name in enumerate(names):
        middle = (block + 0.5) * len(radii) - 0.5
        axes.annotate(
            *(name, (middle, 1)),
            xycoords=("data", "axes fraction"),
            xytext=(0, 24),
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
        if block:
            axes.axvline(block * len(radii) - 0.5, color="black", linewidth=2)
    axes.set_yticks(range(high), [f"{row['name']}  ({row['verdict']})" for row in rows], fontsize=9)
    for (i, j), value in np.ndenumerate(values):
        dark = abs(value - 0.5) > 0.35
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    figure.colorbar(shown, ax=axes, shrink=1 if high < 12 else 0.5, label="AUROC (0.5: chance)")
    entitle(figure, title, 11)
    return figure


def _panels(rows: Sequence[Row], draw: Callable[[Axes, Row], None], title: str, x_label: str, y_label: str) -> Figure:
    """One small panel per detector."""
    wide = min(len(rows), max(3, math.ceil(math.sqrt(1.6 * len(rows)))))
    high = math.ceil(len(rows) / wide)
    figure = Figure(figsize=(max(7.5, 1.0 + 2.3 * wide), 1.3 + 1.9 * high), layout="constrained")
    grid = figure.subplots(high, wide, squeeze=False).flatten()
    for axes, row in zip(grid, rows, strict=False):
        draw(axes, row)
        axes.set_title(f"{row['name']}: {row['verdict']}", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in grid[len(rows) :]:
        axes.set_visible(False)
    # Not every panel has every line, so the legend collects the lines of all panels.
    legend = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if legend:
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), fontsize=9)
    entitle(figure, f"{title}\nacross: {x_label}", 11)
    figure.supylabel(y_label, fontsize=10)
    return figure


def _histogram(axes: Axes, row: Row, groups: Mapping[str, np.ndarray]) -> None:
    everything = np.concatenate(list(groups.values()))
    everything = everything[np.isfinite(everything)] if np.isfinite(everything).any() else np.zeros(1)
    # The range covers all groups except the outermost 1 % at each end, because a long tail would compress the rest.
    low, high = np.quantile(everything, [0.01, 0.99])
    bins = np.linspace(low, high + 1e-12 * max(abs(high), 1e-300), 31)
    if not np.all(np.diff(bins) > 0):
        bins = np.linspace(low - 0.5, low + 0.5, 31)
    for values, (label, colour) in zip(groups.values(), _GROUPS.items(), strict=True):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            clipped = np.clip(values, bins[0], bins[-1])
            axes.hist(clipped, bins.tolist(), weights=weights, color=colour, alpha=0.55, label=label)
    threshold = next(iter(row["sets"].values()))["clean"]["threshold"]
    if threshold is not None:  # an infinite one is null in JSON
        axes.axvline(threshold, color="black", linestyle=":", linewidth=1)


_GROUPS = {"in-distribution": IN, "starts": BEFORE, "strongest attack": OUT}


def _roc(axes: Axes, groups: Mapping[str, np.ndarray]) -> None:
    inside, *others = groups.values()
    for outside, (label, colour) in zip(others, list(_GROUPS.items())[1:], strict=True):
        if not len(outside):
            continue
        truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        # Ranks, because scores may be infinite.
        ranks = np.unique(np.r_[inside, outside], return_inverse=True)[1]
        x, y, _ = roc_curve(truth, ranks)
        axes.plot(x, y, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.8)


def _against_eps(axes: Axes, row: Row, figure: str) -> None:
    """A share against eps, one line for each set of starts."""
    for colour, (name, found) in zip(_cycled(row), row["sets"].items(), strict=False):
        curve = [{"eps": 0.0, **found["before"]}, *found["radii"]]
        # Radii usually span decades, and one may be infinite: they are spaced evenly.
        axes.set_xticks(range(len(curve)), [eps_label(float(at["eps"])) for at in curve])
        _curve(axes, range(len(curve)), [at[figure] for at in curve], colour, name)
    axes.set_ylim(-0.02, 1.02)


def _against_budget(axes: Axes, row: Row) -> None:
    for colour, (name, found) in zip(_cycled(row), row["sets"].items(), strict=False):
        curve = [{"steps": 0, **found["before"]}, *found["budgets"]]
        _curve(axes, [at["steps"] for at in curve], [at["auroc"] for at in curve], colour, name)
    axes.set_ylim(-0.02, 1.02)


def _cycled(row: Row) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(row["sets"]))]


def _curve(axes: Axes, places: Sequence[float], curve: Sequence[Row], colour: str, label: str) -> None:
    axes.plot(places, [at["value"] for at in curve], marker="o", markersize=3, color=colour, label=label)
    low, high = ([at[end] for at in curve] for end in ("low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0.5, color="black", linestyle=":", linewidth=0.8)
