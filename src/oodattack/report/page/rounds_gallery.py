"""The gallery of the rounds of a training: what the attacks made of the same starts, round by round."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from oodattack.report.numbers import significant
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Shown, shown_share
from oodattack.report.page.environment import render_part
from oodattack.report.page.page import Choice, Gallery
from oodattack.report.page.run_rows import PICTURES, SMALL_SIDE, Picture, png_size
from oodattack.training.round_store import Round

COLUMNS = ("row", "round", "attack", "x_in_name", "start_name", "outcome", "score_before", "score", "mape")
SORTS = (
    *(("", "round and attack"), ("start_name", "start"), ("score", "score, lowest first")),
    *(("-score", "score, highest first"), ("mape", "MAPE, smallest first"), ("-mape", "MAPE, largest first")),
)
Row = Mapping[str, Any]


def gallery(rounds: Sequence[Round], destination: Destination) -> Gallery:
    """Add all images and panels to the page; returns the gallery, whose rows are numbered over all rounds."""
    rows: list[list[Any]] = []
    cards = []
    for place, one in enumerate(rounds):
        limit = one.figures["EnergyBased"]["natural"]["threshold"]
        for found in one.read_images().to_pylist():
            row = {**found, "number": len(rows), "round": place, "limit": limit, **_outcome(found, limit)}
            row["mape"] = row["mape"] if math.isfinite(row["mape"]) else None
            cards.append(_render("card", row, destination.thumbnail))
            destination.row(row["number"], _render("panel", row, destination.image))
            rows.append([row["number"], *(row[name] for name in COLUMNS[1:])])
    return Gallery(
        title="The same starts, attacked in every round",
        columns=COLUMNS,
        rows=rows,
        cards=cards,
        bars=[{}] * len(rows),
        choices=[_choice(label, COLUMNS.index(label), rows) for label in ("round", "attack", "outcome")],
        sorts=SORTS,
        note="Choose an image to see it at full size. Sort by start to compare the rounds.",
    )


def _outcome(row: Row, limit: float) -> Mapping[str, str]:
    passes, rejected = row["score"] <= limit, row["score_before"] > limit
    if passes:
        return {"outcome": "passes", "because": "its start was rejected" if rejected else "as its start did"}
    return {"outcome": "rejected", "because": "as its start was" if rejected else "although its start passed"}


def _choice(label: str, column: int, rows: Sequence[Sequence[Any]]) -> Choice:
    return Choice(label, label, [(str(value), str(value)) for value in dict.fromkeys(row[column] for row in rows)])


def _render(macro: str, row: Row, add: Any) -> Markup:
    """The card or the panel of a row."""
    key = f"rounds/{row['number']}"
    pictures = []
    for name, title in PICTURES:
        png = row[name]["bytes"]
        text = row[f"{name}_name"] if name != "image" else f"attack: {row['attack']}, round {row['round']}"
        pictures.append(Picture(add(png), f"{title}: {text}", png_size(png), title, Markup("{}").format(text)))
    shown = {
        **{name: row[name] for name in ("number", "round", "attack", "x_in_name", "start_name", "outcome", "because")},
        "images": pictures,
        "pixels": max(pictures[0].size) <= SMALL_SIDE,
        "before": Shown(f"{key}/score_before", row["score_before"], significant(row["score_before"])),
        "after": Shown(f"{key}/score", row["score"], significant(row["score"])),
        "limit": Shown(f"{key}/limit", row["limit"], significant(row["limit"])),
        "mape": shown_share(f"{key}/mape", row["mape"]),
    }
    return render_part("rounds_row.html", macro, shown)
