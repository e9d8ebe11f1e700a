"""The charts of the rounds of a training; a set of images has the same colour in all of them."""

from collections.abc import Callable

from oodattack.report.numbers import count, fixed, share
from oodattack.report.page.charts import Line, lines
from oodattack.report.page.elements import Figure
from oodattack.report.page.rounds_tables import SCORES, SETS
from oodattack.report.page.traced import Traced


def pass_rates(traced: Traced) -> Figure:
    """Share of each set that passes by the energy score, over the rounds."""
    return _over_rounds(
        traced,
        "pass",
        "Share of images that pass by the energy score",
        "The lower, the better the defence.",
        _measured(traced, "EnergyBased", "fpr95_in_positive"),
        "images that pass",
        share,
        (0.0, 1.0),
    )


def aurocs(traced: Traced, score: str) -> Figure:
    """AUROC of each set by one score, over the rounds."""
    return _over_rounds(
        traced,
        f"auroc-{score}",
        f"AUROC by the {SCORES[score]}",
        "1 separates perfectly, 0.5 is chance, and below it attacked images look more like the data than test images.",
        _measured(traced, score, "auroc"),
        "AUROC",
        fixed,
        (0.0, 1.0),
    )


def mapes(traced: Traced) -> Figure:
    """Median MAPE of the attacks on the latents, over the rounds."""
    rounds = traced.at("rounds")
    drawn = []
    for name in ("new", "longer", "larger"):
        places = [number for number, figures in enumerate(rounds) if figures["mape"][name] is not None]
        if places:
            drawn.append(Line(name, places, [rounds[number]["mape"][name] for number in places]))
    return _over_rounds(
        traced,
        "mape",
        "How close the attacks come: median MAPE",
        "The difference of the latents of x_out and x_in.",
        drawn,
        "MAPE",
        share,
    )


def _measured(traced: Traced, score: str, measure: str) -> list[Line]:
    """A line for each set: one of its measures by one score."""
    rounds, drawn = traced.at("rounds"), []
    for name in SETS:
        places = [number for number, figures in enumerate(rounds) if name in figures[score]]
        if places:
            drawn.append(Line(name, places, [rounds[number][score][name][measure]["value"] for number in places]))
    return drawn


def _over_rounds(
    traced: Traced,
    name: str,
    title: str,
    description: str,
    drawn: list[Line],
    label: str,
    text: Callable[[float], str],
    limits: tuple[float, float] | None = None,
) -> Figure:
    return lines(
        name,
        title,
        description,
        drawn=drawn,
        x_label="rounds",
        y_label=label,
        x_text=lambda place: count(round(place)),
        y_text=text,
        x_marks=list(map(float, range(len(traced.at("rounds"))))),
        y_limits=limits,
    )
