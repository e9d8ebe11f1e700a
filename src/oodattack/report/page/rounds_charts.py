"""The charts of the rounds of a training; a set of images has the same colour in all of them."""

from oodattack.report.numbers import count, fixed, share
from oodattack.report.page.charts import Line, lines
from oodattack.report.page.elements import Figure
from oodattack.report.page.rounds_tables import SCORES, SETS
from oodattack.report.page.traced import Traced


def pass_rates(traced: Traced) -> Figure:
    """Share of each set that passes by the energy score, over the rounds."""
    return lines(
        "pass",
        "Share of images that pass by the energy score",
        "The lower, the better the defence.",
        drawn=_drawn(traced, "EnergyBased", "fpr95_in_positive"),
        x_label="rounds",
        y_label="images that pass",
        x_text=lambda place: count(round(place)),
        y_text=share,
        x_marks=list(map(float, range(len(traced.at("rounds"))))),
        y_limits=(0.0, 1.0),
    )


def _drawn(traced: Traced, score: str, measure: str) -> list[Line]:
    rounds, drawn = traced.at("rounds"), []
    for name in SETS:
        places = [number for number, figures in enumerate(rounds) if name in figures[score]]
        if places:
            drawn.append(Line(name, places, [rounds[number][score][name][measure]["value"] for number in places]))
    return drawn


def aurocs(traced: Traced, score: str) -> Figure:
    """AUROC of each set by one score, over the rounds."""
    rounds = traced.at("rounds")
    return lines(
        f"auroc-{score}",
        f"AUROC by the {SCORES[score]}",
        "1 separates perfectly, 0.5 is chance, and below it attacked images look more like the data than test images.",
        drawn=_drawn(traced, score, "auroc"),
        x_label="rounds",
        y_label="AUROC",
        x_text=lambda place: count(round(place)),
        y_text=lambda value: fixed(value, 3),
        x_marks=list(map(float, range(len(rounds)))),
        y_limits=(0.0, 1.0),
    )


def mapes(traced: Traced) -> Figure:
    """Median MAPE of the attacks on the latents, over the rounds."""
    rounds = traced.at("rounds")
    drawn = []
    for name in ("new", "longer", "larger"):
        places = [number for number, figures in enumerate(rounds) if figures["mape"][name] is not None]
        if places:
            drawn.append(Line(name, places, [rounds[number]["mape"][name] for number in places]))
    return lines(
        "mape",
        "How close the attacks come: median MAPE",
        "The difference of the latents of x_out and x_in.",
        drawn=drawn,
        x_label="rounds",
        y_label="MAPE",
        x_text=lambda place: count(round(place)),
        y_text=share,
        x_marks=list(map(float, range(len(rounds)))),
    )
