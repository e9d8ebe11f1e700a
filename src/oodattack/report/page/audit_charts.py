"""The charts of an audit: AUROC against eps."""

from oodattack.report.audit_short import radii
from oodattack.report.numbers import eps_label, fixed
from oodattack.report.page.audit_words import norm
from oodattack.report.page.charts import Line, lines
from oodattack.report.page.charts.lines import COLOURS
from oodattack.report.page.elements import Figure
from oodattack.report.page.traced import Traced


def against_eps(traced: Traced, number: int) -> Figure:
    """AUROC of one detector against eps, one line for each set of starts, from the starts themselves on the left."""
    detector = traced.at("detectors", number)
    labels = ["before", *(eps_label(eps) for eps in radii(traced.results))]
    places = list(map(float, range(len(labels))))
    drawn = []
    for name, found in list(detector["sets"].items())[:COLOURS]:
        curve = [at["auroc"] for at in (found["before"], *found["radii"])]
        low, middle, high = ([at[end] for at in curve] for end in ("low", "value", "high"))
        drawn.append(Line(name, places, middle, low, high))
    sets = len(detector["sets"])
    return lines(
        f"auroc-{number}",
        f"{detector['name']}: {detector['verdict']}",
        "AUROC before the attacks, and under the strongest attack on each image within each eps; 0.5 is chance.",
        drawn=drawn,
        x_label=f"eps ({norm(traced.results)}), evenly spaced",
        y_label="AUROC",
        x_text=lambda place: labels[round(place)],
        y_text=lambda value: fixed(value, 2),
        x_marks=places,
        y_limits=(0.0, 1.0),
        interval="95 %",
        note=f"The first {COLOURS} of {sets} sets of starts." if sets > COLOURS else "",
    )
