"""The MAPEs of two runs against each other, image by image where both attacked the same images from the same starts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from oodattack.report.intervals import Interval, difference, fraction, paired_difference, ratio
from oodattack.runs import Run
from oodattack.runs.summary import SMALL_MAPE

DIGESTS_OF_CONTENTS = 4  # the format of runs since which digests of images are of their contents
Part = tuple[str, float]
"""The name of a start and an eps."""


@dataclass(frozen=True)
class Mapes:
    """The MAPEs of a run, as PNG; undefined ones are left out.

    Attributes:
        values: for each start and eps, the MAPE of each image by the number of its x_in in the run.
        contents: for each start, the digests of all x_in and of the starts, with which the numbers of two runs mean the
            same images and starts; missing in runs of earlier formats.
    """

    values: Mapping[Part, Mapping[int, float]]
    contents: Mapping[str, tuple[str, str]]

    def below(self, part: Part) -> Interval:
        """The share of MAPEs below 0.1 %."""
        return fraction(_array(self.values[part].values()) < SMALL_MAPE)


@dataclass(frozen=True)
class Against:
    """A run against another one, for one start and eps.

    Attributes:
        ratio: of the geometric means of the MAPEs; None if either has no finite one.
        below: the difference of the shares of MAPEs below 0.1 %; undefined if either has no MAPE.
        pairs: the number of images that both have, if intervals are those of paired samples; otherwise None, and the
            runs are taken to be independent.
    """

    ratio: Interval | None
    below: Interval
    pairs: int | None


def read_mapes(run: Run) -> Mapes:
    """Read the MAPEs of a run, finished or not.

    Raises:
        InputError: if a shard is damaged.
    """
    settings, inputs = run.header["settings"], run.header["inputs"]
    starts, comparable = inputs.get("starts", ()), run.header["format"] >= DIGESTS_OF_CONTENTS
    values: dict[Part, dict[int, float]] = {}
    contents = {}
    columns = run.read(["row", "start_source", "eps", "mape"])
    for row, source, eps, mape in zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True):
        # Rows are in the order of x_in, then of starts, then of eps.
        number, place = divmod(row // len(settings["eps"]), len(settings["start"]))
        group = values.setdefault((source, eps), {})
        if mape is not None:
            group[number] = mape
        if comparable:
            contents[source] = (inputs["images"], starts[place])
    return Mapes(values, contents)


def against(first: Mapes, second: Mapes, part: Part) -> Against | None:
    """The second of two runs against the first, for one start and eps; None if either has no such attack."""
    if part not in first.values or part not in second.values:
        return None
    both, source = (first.values[part], second.values[part]), part[0]
    paired = source in first.contents and first.contents[source] == second.contents.get(source)
    common = sorted(both[0].keys() & both[1].keys())
    one, other = (_array([found[number] for number in common] if paired else found.values()) for found in both)
    hits = one < SMALL_MAPE, other < SMALL_MAPE
    return Against(
        _ratio(one, other, paired=paired),
        paired_difference(*hits) if paired else difference(fraction(hits[0]), fraction(hits[1])),
        len(common) if paired else None,
    )


def _ratio(first: np.ndarray, second: np.ndarray, *, paired: bool) -> Interval | None:
    finite = np.isfinite(first), np.isfinite(second)
    if paired:
        finite = (finite[0] & finite[1],) * 2
    first, second = first[finite[0]], second[finite[1]]
    return ratio(first, second, paired=paired) if len(first) and len(second) else None


def _array(values: Iterable[float]) -> np.ndarray:
    return np.fromiter(values, dtype=np.float64)
