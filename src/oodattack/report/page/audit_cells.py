"""The cells of an audit's heat map, one per detector, set of starts and eps, and the panel that each opens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.report.audit_short import radii
from oodattack.report.audit_strongest import Scores, Strongest, strongest
from oodattack.report.numbers import ball_label, eps_label, significant
from oodattack.report.page.audit_histogram import ScoreBins, score_histogram
from oodattack.report.page.audit_tables import attacks_on, measures
from oodattack.report.page.audit_words import norm
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Shown, Table
from oodattack.report.page.environment import render_part
from oodattack.report.page.run_rows import SMALL_SIDE, png_size
from oodattack.report.page.traced import Traced

MAX_IMAGES = 12_000  # attacked images in a folder: about 40 MB
MAX_IMAGES_COMPACT = 2_400  # in one file: at most 6 MB
MAX_IMAGES_PER_CELL = 40


@dataclass(frozen=True)
class Cell:
    """A cell: what a detector makes of the images that attacks from a set of starts found within an eps.

    Attributes:
        number: the number of its panel.
        detector: the detector's number in the results.
        starts: name of the set of starts.
        place: the number of the radius.
        eps: the radius.
    """

    number: int
    detector: int
    starts: str
    place: int
    eps: float


def cells(results: Mapping[str, Any]) -> list[Cell]:
    """All cells, detector by detector.

    >>> at = [{"eps": 1.0}, {"eps": "inf"}]
    >>> [cell.number for cell in cells({"detectors": [{"sets": {"scans": {"radii": at}}}] * 2})]
    [0, 1, 2, 3]
    """
    every = [
        (detector, starts, place, eps)
        for detector, row in enumerate(results["detectors"])
        for starts in row["sets"]
        for place, eps in enumerate(radii(results))
    ]
    return [Cell(number, *one) for number, one in enumerate(every)]


@dataclass
class Panels:
    """Writes the panels. Images are read set by set, so that only those of one set are in memory.

    Attributes:
        audit: the audit, which has the images.
        traced: its results.
        scores: its scores.
        destination: where the panels go.
        unreadable: attacks whose images cannot be read, because they were deleted or damaged, with the reason.
    """

    audit: Audit
    traced: Traced
    scores: Scores
    destination: Destination
    unreadable: dict[str, str] = field(default_factory=dict)
    _pngs: dict[str, list[bytes]] = field(default_factory=dict)

    def write(self, found: Sequence[Cell]) -> None:
        """Add the panels of all cells, in their order."""
        per_cell = (MAX_IMAGES_COMPACT if self.destination.compact else MAX_IMAGES) // max(1, len(found))
        per_cell = min(MAX_IMAGES_PER_CELL, max(2, per_cell))
        panels = {}
        for starts in dict.fromkeys(cell.starts for cell in found):
            samples = self.audit.read_samples(starts).to_pylist()
            for cell in found:
                if cell.starts == starts:
                    panels[cell.number] = self._panel(cell, found, samples, per_cell)
            self._pngs.clear()
        for number in sorted(panels):
            self.destination.row(number, panels[number])

    def made(self, cell: Cell) -> Strongest:
        """The scores of a cell."""
        return strongest(
            self.traced.at("detectors", cell.detector),
            self.scores,
            cell.starts,
            eps=cell.eps,
            steps=self.traced.at("settings", "steps"),
            rows=self.traced.at("sets", "targets"),
        )

    def image(self, made: Strongest, row: int, sample: Mapping[str, Any]) -> bytes | None:
        """The PNG of x_out: that of the strongest attack, or the start where no attack lowered the score.

        Returns:
            None if the images of the attack cannot be read.
        """
        key = made.attack[row]
        if key is None:
            png: bytes = sample["start"]["bytes"]
            return png
        if key not in self._pngs:
            try:
                found = self.audit.read_attack(key, ["image"])["image"].to_pylist()
                self._pngs[key] = [cell["bytes"] for cell in found]
            except InputError as error:
                self.unreadable[key] = str(error)
                self._pngs[key] = []
        pngs = self._pngs[key]
        return pngs[row] if row < len(pngs) else None

    def _panel(self, cell: Cell, found: Sequence[Cell], samples: Sequence[Mapping[str, Any]], per_cell: int) -> Markup:
        detector = self.traced.at("detectors", cell.detector)
        at = detector["sets"][cell.starts]["radii"][cell.place]
        made = self.made(cell)
        bins = ScoreBins.of(made)
        name = f"scores-{cell.number}"
        chosen = spread(made.after, per_cell)
        shown = {
            "title": f"{detector['name']}, from {cell.starts}",
            "ball": ball_label(norm(self.traced.results), cell.eps),
            "verdict": at["verdict"],
            "siblings": [
                (eps_label(other.eps), other.number, other.number == cell.number)
                for other in found
                if (other.detector, other.starts) == (cell.detector, cell.starts)
            ],
            "attacks": attacks_on(self.traced, cell.detector, cell.starts, cell.eps),
            "strongest": at["attack"],
            "work": self.traced.count(
                *("detectors", cell.detector, "sets", cell.starts, "radii", cell.place, "gradient_evaluations")
            ),
            "figure": score_histogram(name, made, bins),
            "measures": Table(
                "Measures",
                ["measure", "whole set", "attacked starts", "after attack"],
                measures(self.traced, cell.detector, cell.starts, cell.place),
                note="With 95 % intervals. FPR95-in: share of OOD images that pass at the threshold that accepts 95 %"
                " of in-distribution images. FPR95-out: share of in-distribution images flagged at the threshold that"
                " flags 95 % of OOD images, as in OpenOOD. two-sided: of a detector that flags abnormally low scores"
                " too.",
            ),
            "chart": name,
            "passing": int(made.passes.sum()),
            "total": len(made.after),
            "cards": [self._card(cell, made, bins, row, samples[row]) for row in chosen],
        }
        return render_part("audit_cell.html", "cell", shown)

    def _card(
        self, cell: Cell, made: Strongest, bins: ScoreBins, row: int, sample: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        start, x_in = sample["start"]["bytes"], sample["x_in"]["bytes"]
        out = self.image(made, row, sample)
        key = f"scores/{cell.number}"
        return {
            "row": row,
            "bar": bins.bar(float(made.after[row])),
            "passes": bool(made.passes[row]),
            "rejected": bool(made.rejected[row]),
            "unchanged": made.attack[row] is None,
            "before": Shown(f"{key}/before/{row}", float(made.before[row]), significant(float(made.before[row]))),
            "after": Shown(f"{key}/after/{row}", float(made.after[row]), significant(float(made.after[row]))),
            "start_name": sample["start_name"],
            "x_in_name": sample["x_in_name"],
            "start": self.destination.thumbnail(start),
            "x_in": self.destination.thumbnail(x_in),
            "x_out": self._address(out, shared=made.attack[row] is None),
            "pixels": max(png_size(start)) <= SMALL_SIDE,
        }

    def _address(self, out: bytes | None, *, shared: bool) -> str | None:
        if out is None:
            return None
        return self.destination.thumbnail(out) if shared else self.destination.inline(out)


def spread(scores: np.ndarray, count: int) -> list[int]:
    """Rows of at most ``count`` scores (N,), evenly spaced over their order, the lowest first.

    >>> spread(np.array([3.0, 1.0, 2.0, 0.0]), 2), spread(np.array([3.0, 1.0]), 9)
    ([3, 0], [1, 0])
    """
    order = np.argsort(scores, kind="stable")
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [int(row) for row in order[places]]


def example(panels: Panels, found: Sequence[Cell]) -> tuple[Cell, Strongest, int] | None:
    """The cell and row that show best what the audit found; None if no detector is broken.

    Of the smallest radius at which a detector is broken, the cell with the lowest AUROC; of its images that pass and
    whose start is rejected, the one with the median score.
    """
    broken = []
    for cell in found:
        at = panels.traced.at("detectors", cell.detector, "sets", cell.starts, "radii", cell.place)
        if at["verdict"] == "broken":
            broken.append((cell.eps, at["auroc"]["value"], cell.number, cell))
    for *_, cell in sorted(broken, key=lambda one: one[:3]):
        made = panels.made(cell)
        rows = np.flatnonzero(made.passes & made.rejected)
        if len(rows):
            order = rows[np.argsort(made.after[rows], kind="stable")]
            return cell, made, int(order[(len(order) - 1) // 2])
    return None
