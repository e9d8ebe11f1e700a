"""The paper's grid (Figs. 1-3): images beside scatter plots of their latents."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from oodattack.report.numbers import eps_label, percent_label
from oodattack.report.style import IN, OUT, describe, entitle
from oodattack.runs import Run
from oodattack.settings.ball import NORM_NAMES

COLUMNS = [
    *("row", "x_in_name", "start_name", "eps", "norm", "x_in", "start", "image", "z_in", "z_start", "z_out"),
    *("mape", "mape_before", "distance", "class_in", "class_start", "class_out"),
    *("probability_in", "probability_start", "probability_out"),
]


def typical_rows(run: Run, max_rows: int = 6) -> list[int]:
    """For each start and eps, the row with the median MAPE; at most ``max_rows`` rows."""
    groups: dict[tuple[str, float], list[tuple[float, int]]] = {}
    for row in run.read(["row", "start_source", "eps", "mape"]).to_pylist():
        key = (row["start_source"], row["eps"])
        groups.setdefault(key, []).append((float("inf") if row["mape"] is None else row["mape"], row["row"]))
    return [sorted(rows)[(len(rows) - 1) // 2][1] for rows in list(groups.values())[:max_rows]]


def grid(run: Run, rows: Sequence[int]) -> Figure:
    """Draw one line per sample: x_in, x'_out and x_out, each beside its latent, with the MAPE in the plots."""
    samples = _find(run, rows)
    figure = Figure(figsize=(14, 0.9 + 2.35 * len(samples)), layout="constrained")
    entitle(figure, f"x_out looks like x'_out and has the latent of x_in\n{describe(run.header)}", 12)
    axes = figure.subplots(len(samples), 6, squeeze=False, width_ratios=[1, 1.25] * 3)
    for line, sample in zip(axes, samples, strict=True):
        eps = f"{NORM_NAMES[sample['norm']]} {eps_label(sample['eps'])}"
        _image(line[0], sample["x_in"], f"x_in: {_short(sample['x_in_name'])}", _top_1(sample, "in"))
        _image(line[2], sample["start"], f"x'_out: {_short(sample['start_name'])}", _top_1(sample, "start"))
        _image(line[4], sample["image"], f"x_out, eps {eps}", _top_1(sample, "out"))
        # The three plots share one range, so that they can be compared by eye.
        everything = np.concatenate([sample["z_in"], sample["z_start"], sample["z_out"]])
        everything = everything[np.isfinite(everything)]
        height = everything.max() - everything.min() + 1e-12
        limits = (everything.min() - 0.06 * height, everything.max() + 0.22 * height)  # room for the MAPE
        _scatter(line[1], sample["z_in"], None, "z_in", None, limits)
        _scatter(line[3], sample["z_in"], sample["z_start"], "z'_out over z_in", sample["mape_before"], limits)
        _scatter(line[5], sample["z_in"], sample["z_out"], "z_out over z_in", sample["mape"], limits)
    return figure


def _find(run: Run, rows: Sequence[int]) -> list[dict[str, Any]]:
    """The samples with the given row numbers, in that order; only the shards that contain them are read."""
    size = len(run.shard_rows(0))
    found: dict[int, dict[str, Any]] = {}
    for number in sorted({row // size for row in rows}):
        found.update({s["row"]: s for s in run.read_shard(number, COLUMNS).to_pylist() if s["row"] in rows})
    return [{**found[row], **{z: np.asarray(found[row][z]) for z in ("z_in", "z_start", "z_out")}} for row in rows]


def _image(axes: Axes, cell: dict[str, Any], title: str, class_name: str) -> None:
    axes.imshow(Image.open(io.BytesIO(cell["bytes"])), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(class_name, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _scatter(
    axes: Axes,
    z_in: np.ndarray,
    z: np.ndarray | None,
    title: str,
    mape: float | None,
    limits: tuple[float, float],
) -> None:
    components = np.arange(len(z_in))
    size = 18 if len(z_in) <= 128 else 5
    axes.scatter(components, z_in, s=size, color=IN, linewidths=0)
    if z is not None:
        axes.scatter(components, z, s=2.2 * size, facecolors="none", edgecolors=OUT, linewidths=0.6)
        text = "MAPE undefined" if mape is None else f"MAPE {percent_label(100 * mape)}"
        axes.text(
            *(0.97, 0.94, text),
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=10,
            fontweight="bold",
        )
    axes.set_ylim(*limits)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)


def _top_1(sample: dict[str, Any], image: str) -> str:
    name, probability = sample[f"class_{image}"], sample[f"probability_{image}"]
    return "" if name is None else f"{_short(name)} ({100 * probability:.0f} %)"


def _short(name: str, max_length: int = 20) -> str:
    return name if len(name) <= max_length else "…" + name[-max_length + 1 :]
