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

from oodattack.audit.store import Audit
from oodattack.report.audit_table import at, made
from oodattack.report.draw import save
from oodattack.report.style import BEFORE, COLOURS, IN, OUT, entitle, eps_label
from oodattack.settings.audit import ATTACKS
from oodattack.settings.ball import NORM_NAMES

Row = Mapping[str, Any]
Scores = Mapping[tuple[str, str], Tensor]


def draw_audit(audit: Audit, folder: Path) -> list[Path]:
    """Draw a finished audit.

    Args:
        audit: the audit.
        folder: the folder to write the PNG files to.

    Returns:
        The files: ``heatmap.png``, ``histograms.png``, ``roc.png``; with several radii ``eps.png``, and with budgets
        ``budget.png``.

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
    ...         fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     [path.name for path in draw_audit(audit, Path(folder) / "figures")]
    ['heatmap.png', 'histograms.png', 'roc.png']
    """
    results, scores = audit.read_results(), audit.read_scores()
    rows, settings = results["detectors"], results["settings"]
    described = f"{settings['encoder'].partition(',')[0]}, {NORM_NAMES[settings['norm']]} ball"
    largest = f"{described}, eps {eps_label(_largest(results))}, {settings['steps']} steps"
    natural = [name for name in rows[0]["clean"] if name != "starts"]
    with rc_context({"text.parse_math": False}):
        figures = {
            "heatmap": _heatmap(results, natural, f"AUROC before and after the attack\n{largest}"),
            "histograms": _panels(
                rows,
                lambda axes, row: _histogram(axes, row, scores, natural),
                f"Scores: x_in (blue), natural OOD sets (grey), the strongest attack (red)\n{largest}",
                "score, from the 1st to the 99th percentile of all",
                "share of images",
            ),
            "roc": _panels(
                rows,
                lambda axes, row: _roc(axes, row, scores),
                f"ROC of starts (grey) and of the strongest attack (red), OOD positive\n{largest}",
                "share of x_in flagged",
                "share of OOD flagged",
            ),
        }
        if len(settings["eps"]) > 1:
            figures["eps"] = _panels(
                rows,
                lambda axes, row: _against_eps(axes, row, settings["steps"]),
                f"AUROC against eps (0: the starts), with 95 % intervals\n{described}, {settings['steps']} steps",
                "eps, pixels in [0, 1]",
                "AUROC",
            )
        if settings["budget"]:
            figures["budget"] = _panels(
                rows,
                lambda axes, row: _against_budget(axes, row, _largest(results)),
                f"AUROC of the latent attack against its budget\n{described}, eps {eps_label(_largest(results))}",
                "steps in floating point",
                "AUROC",
            )
        return [save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]


def _largest(results: Row) -> float:
    return max(map(float, results["settings"]["eps"]))


def _heatmap(results: Row, natural: Sequence[str], title: str) -> Figure:
    """One row per detector, one column per set and attack; a cell without a value stays white."""
    rows, settings = results["detectors"], results["settings"]
    columns = [*natural, "starts", *made(settings)]
    values = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        found = {name: measure["auroc"] for name, measure in row["clean"].items()}
        found |= {m["kind"]: m["auroc"] for m in at(row, _largest(results), settings["steps"])}
        values[i] = [found.get(column, np.nan) for column in columns]
    figure = Figure(figsize=(3.2 + 0.95 * len(columns), max(3, 1.6 + 0.3 * len(rows))), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlBu", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="left", fontsize=10)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [f"{row['name']}  ({row['verdict']})" for row in rows], fontsize=9)
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = abs(value - 0.5) > 0.35
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.axvline(len(natural) + 0.5, color="black", linewidth=1.5)
    figure.colorbar(shown, ax=axes, shrink=1 if len(rows) < 12 else 0.5, label="AUROC (0.5: chance)")
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
        axes.set_title(f"{row['name']}: {row['verdict']}", fontsize=9)
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


def _histogram(axes: Axes, row: Row, scores: Scores, natural: Sequence[str]) -> None:
    name = row["name"]
    groups = {
        "x_in": (scores[name, "in"].numpy(), IN),
        "natural OOD" if natural else "starts": (
            np.concatenate([scores[name, other].numpy() for other in natural or ["starts"]]),
            BEFORE,
        ),
        "strongest attack": (scores[name, row["strongest"]["set"]].numpy(), OUT),
    }
    everything = np.concatenate([values for values, _ in groups.values()])
    everything = everything[np.isfinite(everything)] if np.isfinite(everything).any() else np.zeros(1)
    # The range covers all groups except the outermost 1 % at each end, because a long tail would compress the rest.
    low, high = np.quantile(everything, [0.01, 0.99])
    bins = np.linspace(low, high + 1e-12 * max(abs(high), 1e-300), 31)
    if not np.all(np.diff(bins) > 0):
        bins = np.linspace(low - 0.5, low + 0.5, 31)
    for label, (values, colour) in groups.items():
        weights = np.full(len(values), 1 / len(values))
        clipped = np.clip(values, bins[0], bins[-1])
        axes.hist(clipped, bins.tolist(), weights=weights, color=colour, alpha=0.55, label=label)
    if row["strongest"]["threshold"] is not None:  # an infinite one is null in JSON
        axes.axvline(row["strongest"]["threshold"], color="black", linestyle=":", linewidth=1)


def _roc(axes: Axes, row: Row, scores: Scores) -> None:
    name = row["name"]
    inside = scores[name, "in"].numpy()
    for label, images, colour in (
        ("starts", "starts", BEFORE),
        ("strongest attack", row["strongest"]["set"], OUT),
    ):
        outside = scores[name, images].numpy()
        truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        # Ranks, because scores may be infinite.
        ranks = np.unique(np.r_[inside, outside], return_inverse=True)[1]
        x, y, _ = roc_curve(truth, ranks)
        axes.plot(x, y, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.8)


def _against_eps(axes: Axes, row: Row, steps: int) -> None:
    start = {**row["clean"]["starts"], "eps": 0.0}
    radii = sorted({0.0, *(float(m["eps"]) for m in row["attacked"].values())})
    decades = radii[-1] >= 10 * min(filter(None, radii), default=math.inf)  # then spaced evenly
    for colour, kind in zip(COLOURS, ATTACKS, strict=False):
        found = [m for m in row["attacked"].values() if m["kind"] == kind and m["steps"] == steps]
        curve = [start, *sorted(found, key=lambda m: float(m["eps"]))]
        if found:
            places = [float(m["eps"]) for m in curve]
            _curve(axes, [radii.index(eps) for eps in places] if decades else places, curve, colour, kind)
    if decades:
        axes.set_xticks(range(len(radii)), [eps_label(eps) for eps in radii])
    axes.set_ylim(-0.02, 1.02)


def _against_budget(axes: Axes, row: Row, eps: float) -> None:
    found = [m for m in row["attacked"].values() if m["kind"] == "latent" and float(m["eps"]) == eps]
    curve = [{**row["clean"]["starts"], "steps": 0}, *sorted(found, key=lambda m: m["steps"])]
    _curve(axes, [m["steps"] for m in curve], curve, COLOURS[0], "latent")
    axes.set_ylim(-0.02, 1.02)


def _curve(axes: Axes, places: Sequence[float], curve: Sequence[Row], colour: str, label: str) -> None:
    x = np.array(places)
    if np.isinf(x).any():  # no bound: drawn at twice the largest radius
        x = np.where(np.isinf(x), 2 * max([*x[np.isfinite(x)], 0.5]), x)
    axes.plot(x, [m["auroc"] for m in curve], marker="o", markersize=3, color=colour, label=label)
    axes.fill_between(
        *(x, [m["auroc_low"] for m in curve], [m["auroc_high"] for m in curve]),
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    axes.axhline(0.5, color="black", linestyle=":", linewidth=0.8)
