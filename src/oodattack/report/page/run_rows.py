"""Cards and panels of the rows of a run."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from oodattack.report.numbers import count, share
from oodattack.report.page.charts import Line, Points, lines, scatter
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Cell, Figure, Shown, shown_count, shown_eps, shown_number, shown_share
from oodattack.report.page.environment import render_part
from oodattack.settings.ball import NORM_NAMES

PICTURES = (("x_in", "x_in"), ("start", "x′_out, the start"), ("image", "x_out"))
PANEL_COLUMNS = (
    *("row", "x_in_name", "start_source", "start_name", "eps", "norm", "seed", "image", "x_in", "start"),
    *("mape", "mape_float", "mape_before", "mape_note", "mape_parts", "distance", "distance_float"),
    *("gradient_evaluations", "forward_evaluations", "restart", "class_in", "class_start", "class_out"),
    *("probability_in", "probability_start", "probability_out", "z_in", "z_start", "z_out", "history"),
)
SMALL_SIDE = 96  # images up to this size are enlarged without smoothing, so that their pixels can be seen
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image with its caption."""

    src: str
    alt: str
    size: tuple[int, int]
    title: str
    text: Markup


def card(row: Row, destination: Destination) -> Markup:
    """The card of a row in the gallery."""
    images = [(title.split(",")[0], destination.thumbnail(row[name]["bytes"])) for name, title in PICTURES]
    key = f"rows/{row['row']}"
    shown = {
        **{name: row[name] for name in ("x_in_name", "start_name", "class_start", "class_out")},
        "number": row["row"],
        "mape": shown_share(f"{key}/mape", row["mape"]),
        "before": shown_share(f"{key}/mape_before", row["mape_before"]),
        "eps": shown_eps(f"{key}/eps", row["eps"]),
    }
    return render_part("run_card.html", "card", shown, images, max(png_size(row["image"]["bytes"])) <= SMALL_SIDE)


def panel(row: Row, destination: Destination) -> Markup:
    """What the panel of a row shows."""
    shown = {
        "number": row["row"],
        "x_in_name": row["x_in_name"],
        "start_name": row["start_name"],
        "images": pictures(row, destination),
        "note": row["mape_note"],
        "numbers": _numbers(row),
        "charts": [*latents(row, compact=destination.compact), *_convergence(row, compact=destination.compact)],
    }
    return render_part("run_row.html", "row", shown)


def pictures(row: Row, destination: Destination) -> list[Picture]:
    """x_in, the start and x_out at full size, with the class that the encoder gives to each."""
    names = {"x_in": row["x_in_name"], "start": row["start_name"], "image": "what the attack made"}
    found = []
    for (name, title), which in zip(PICTURES, ("in", "start", "out"), strict=True):
        png = row[name]["bytes"]
        class_name, text = row[f"class_{which}"], Markup("{}").format(names[name])
        if class_name is not None:
            probability = shown_share(f"rows/{row['row']}/probability_{which}", row[f"probability_{which}"])
            text += Markup("<br>seen as {} ({})").format(class_name, probability)
        found.append(Picture(destination.image(png), f"{title}: {names[name]}", png_size(png), title, text))
    return found


def latents(row: Row, *, compact: bool = False, prefix: str = "panel") -> list[Figure]:
    """The latents of the start and of x_out over that of x_in, as in Figs. 1 to 3 of the paper."""
    z = {name: np.asarray(row[name], dtype=np.float64) for name in ("z_in", "z_start", "z_out")}
    everything = np.concatenate(list(z.values()))
    everything = everything[np.isfinite(everything)]
    limits = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    most = 96 if compact else 2048
    length = len(z["z_in"])
    note = f"{count(min(most, length))} of {count(length)} components, evenly spaced." if length > most else ""
    found = []
    for name, kind, title, error in (
        ("z_start", "out", "Before: latent of the start over that of x_in", row["mape_before"]),
        ("z_out", "out", "After: latent of x_out over that of x_in", row["mape"]),
    ):
        text = shown_share("", error).text
        found.append(
            scatter(
                f"{prefix}-{name}",
                f"{title}, MAPE {text}",
                "Where a dot is within a ring, the two components are equal.",
                points=[Points("z_in", "in", z["z_in"]), Points(name, kind, z[name])],
                limits=limits,
                max_points=most,
                key=f"rows/{row['row']}",
                note=note,
            )
        )
    return found


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _numbers(row: Row) -> list[tuple[str, Cell]]:
    key, norm = f"rows/{row['row']}", NORM_NAMES[row["norm"]]
    found: list[tuple[str, Cell]] = [
        ("MAPE, as PNG", shown_share(f"{key}/mape", row["mape"])),
        ("MAPE in floating point", shown_share(f"{key}/mape_float", row["mape_float"])),
        ("MAPE of the start", shown_share(f"{key}/mape_before", row["mape_before"])),
        (f"{norm} distance, as PNG", shown_number(f"{key}/distance", row["distance"], 4)),
        (f"{norm} distance in floating point", shown_number(f"{key}/distance_float", row["distance_float"], 4)),
        ("eps", shown_eps(f"{key}/eps", row["eps"])),
        ("gradient evaluations", shown_count(f"{key}/gradient_evaluations", row["gradient_evaluations"])),
        ("further forward passes", shown_count(f"{key}/forward_evaluations", row["forward_evaluations"])),
        ("winning try", Shown(f"{key}/restart", row["restart"], count(row["restart"] + 1))),
        ("seed", str(row["seed"])),
    ]
    parts: Sequence[float | None] = row["mape_parts"] or []
    if len(parts) > 1:
        shown = [shown_share(f"{key}/mape_parts/{number}", part) for number, part in enumerate(parts)]
        found.append(("MAPE of each layer", Markup(", ").join(shown)))
    return found


def _convergence(row: Row, *, compact: bool) -> list[Figure]:
    history = np.asarray([] if row["history"] is None else row["history"], dtype=np.float64)
    if len(history) < 2 or not np.isfinite(history).all():
        return []
    steps = np.unique(np.linspace(0, len(history) - 1, min(len(history), 40 if compact else 400)).round().astype(int))
    return [
        lines(
            "panel-history",
            "Convergence of the winning try, in floating point",
            f"The MAPE falls from {share(history[0])} to {share(history[-1])}.",
            drawn=[Line("MAPE", steps.tolist(), history[steps].tolist(), key=f"rows/{row['row']}/history")],
            x_label="gradient evaluations",
            y_label="MAPE",
            x_text=lambda step: count(round(step)),
            y_text=share,
            max_rows=8,
        )
    ]
