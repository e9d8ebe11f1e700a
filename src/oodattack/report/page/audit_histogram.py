"""The scores of a detector as a histogram whose bars meet at the threshold."""

import math
from dataclasses import dataclass

import numpy as np

from oodattack.report.audit_strongest import Strongest
from oodattack.report.numbers import significant
from oodattack.report.page.charts import Bars, histogram
from oodattack.report.page.elements import Figure

BINS = 30
TAIL = 0.01  # share at each end that the axis leaves out, because a long tail would compress the rest


@dataclass(frozen=True)
class ScoreBins:
    """Bins of scores: an image in a bin at or below the threshold passes, one in a bin above it is rejected.

    Attributes:
        edges: borders, ascending; a score equal to a border belongs to the bin below it. The outermost bins also have
            what lies beyond them.
    """

    edges: tuple[float, ...]

    @classmethod
    def of(cls, made: Strongest) -> "ScoreBins":
        """Bins for the scores of a cell, of which the threshold is a border."""
        everything = np.concatenate([made.inside, made.before, made.after, [made.limit]])
        everything = everything[np.isfinite(everything)] if np.isfinite(everything).any() else np.zeros(1)
        low, high = np.quantile(everything, [TAIL, 1 - TAIL]).tolist()
        anchor = made.limit if math.isfinite(made.limit) else low
        low, high = min(low, anchor), max(high, anchor)
        # As wide as numbers of this size allow, so that borders differ.
        step = max((high - low) / BINS, 16 * float(np.spacing(max(abs(low), abs(high), 1e-300))))
        first, last = math.floor((low - anchor) / step), math.ceil((high - anchor) / step)
        return cls(tuple(anchor + number * step for number in range(min(first, -1), max(last, 1) + 1)))

    def bar(self, score: float) -> int:
        """The number of the bar of a score."""
        return int(np.clip(np.searchsorted(self.edges, score, side="left") - 1, 0, len(self.edges) - 2))

    def counts(self, scores: np.ndarray) -> list[int]:
        """How many scores each bar has."""
        bars = np.clip(np.searchsorted(self.edges, scores, side="left") - 1, 0, len(self.edges) - 2)
        return [int(count) for count in np.bincount(bars, minlength=len(self.edges) - 1)]

    def text(self, score: float) -> str:
        """A border with as many digits as tell it from its neighbours."""
        step, largest = self.edges[1] - self.edges[0], max(abs(self.edges[0]), abs(self.edges[-1]))
        digits = min(15, max(3, math.ceil(math.log10(max(largest, step) / step)) + 1))
        return significant(0.0 if abs(score) < 1e-9 * step else score, digits)


def score_histogram(name: str, made: Strongest, bins: ScoreBins) -> Figure:
    """Scores of in-distribution images, and of the starts before and after the attacks.

    Args:
        name: unique on the page, without spaces.
        made: the scores.
        bins: the bins.
    """
    passing = int(made.passes.sum())
    return histogram(
        name,
        "Scores before and after the attack",
        f"{passing} of {len(made.after)} attacked images are at or below the threshold, and pass.",
        edges=bins.edges,
        bars=[
            Bars("in-distribution, held out", "in", bins.counts(made.inside)),
            Bars("starts, before", "before", bins.counts(made.before)),
            Bars("after the strongest attack", "after clear", bins.counts(made.after)),
        ],
        label="score of the detector; higher is more OOD",
        text=bins.text,
        buttons="after the strongest attack",
        line=(made.limit, "threshold"),
        relative=True,
        note="Images to the left of the threshold pass. The outermost bars also have what lies beyond them.",
    )
