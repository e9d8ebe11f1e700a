"""The heat map of an audit: a table of AUROCs, coloured, whose cells open panels."""

from collections.abc import Sequence
from dataclasses import dataclass

from oodattack.auditing.verdict import NOT_WORKING
from oodattack.report.audit_short import radii
from oodattack.report.numbers import eps_label
from oodattack.report.page.audit_cells import Cell
from oodattack.report.page.elements import Shown
from oodattack.report.page.traced import Traced

SHADES = 10  # the style sheet has classes heat-0 to heat-10


@dataclass(frozen=True)
class Heat:
    """A coloured number.

    Attributes:
        shown: the AUROC.
        shade: its class in the style sheet.
        state: "broken", "blind" (also with too few starts) or empty.
        eps: the number of the radius, or "" before the attack.
        panel: the number of the panel that it opens; None before the attack.
        label: what it is, for those who hear it.
    """

    shown: Shown
    shade: int
    state: str
    eps: str
    panel: int | None
    label: str


@dataclass(frozen=True)
class Heatmap:
    """The table.

    Attributes:
        sets: names of the sets of starts.
        radii: labels of the radii, of which each set has one column each, after one for before the attack.
        rows: for each detector its number, name, verdict and cells.
    """

    sets: Sequence[str]
    radii: Sequence[str]
    rows: Sequence[tuple[int, str, str, Sequence[Heat]]]


def heatmap(traced: Traced, cells: Sequence[Cell]) -> Heatmap:
    """The heat map of an audit's results."""
    panels = {(cell.detector, cell.starts, cell.place): cell.number for cell in cells}
    labels = [eps_label(eps) for eps in radii(traced.results)]
    rows = []
    for number, detector in enumerate(traced.at("detectors")):
        found = []
        for name, figures in detector["sets"].items():
            here = ("detectors", number, "sets", name)
            blind = "blind" if figures["verdict"] in NOT_WORKING else ""
            before = traced.auroc(*here, "clean", "auroc", decimals=2)
            found.append(_heat(before, blind, "", None, f"{detector['name']}, {name}, before"))
            for place, label in enumerate(labels):
                shown = traced.auroc(*here, "radii", place, "auroc", decimals=2)
                state = "broken" if figures["radii"][place]["verdict"] == "broken" else blind
                text = f"{detector['name']}, from {name}, eps {label}: {shown.text}{state and f', {state}'}"
                found.append(_heat(shown, state, str(place), panels[number, name, place], text))
        rows.append((number, detector["name"], detector["verdict"], found))
    return Heatmap(list(traced.at("detectors", 0, "sets")), labels, rows)


def _heat(shown: Shown, state: str, eps: str, panel: int | None, label: str) -> Heat:
    return Heat(shown, round(SHADES * (shown.value or 0.0)), state, eps, panel, label)
