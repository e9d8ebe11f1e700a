"""The finished rows of a run, without images and latents, and what is said about all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup

from oodattack.report.numbers import ball_label, count_label, share
from oodattack.report.page.elements import Cell, Table, shown_count, shown_eps, shown_number, shown_share
from oodattack.runs import Group, Run, summarize
from oodattack.runs.summary import SMALL_MAPE
from oodattack.settings.ball import NORM_NAMES

MAX_STARTS = 3  # that the verdict names
COLUMNS = (
    *("row", "x_in_name", "start_source", "start_name", "norm", "eps", "mape", "mape_before", "mape_float", "distance"),
    *("gradient_evaluations", "class_in", "class_start", "class_out", "mape_note"),
)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunTable:
    """The finished rows of a run.

    Attributes:
        run: the run.
        rows: the columns `COLUMNS` of each row, in order.
        groups: the summary per start and eps.
    """

    run: Run
    rows: Sequence[Row]
    groups: Sequence[Group]

    @cached_property
    def places(self) -> Mapping[tuple[str, float], int]:
        """The number of the group of each start and eps."""
        return {(group.start, group.eps): number for number, group in enumerate(self.groups)}

    def group(self, row: Row) -> int:
        """The number of a row's group."""
        return self.places[row["start_source"], row["eps"]]

    @property
    def norm(self) -> str:
        """Name of the ball's norm."""
        return NORM_NAMES[self.run.header["settings"]["norm"]]

    @cached_property
    def strongest(self) -> Sequence[Row]:
        """The rows of the largest eps, of which the verdict speaks."""
        largest = max((row["eps"] for row in self.rows), default=0.0)
        return [row for row in self.rows if row["eps"] == largest]

    @cached_property
    def typical(self) -> Row | None:
        """Of these, the row with the median MAPE; None if no MAPE is defined."""
        defined = [row for row in self.strongest if finite(row["mape"])]
        return sorted(defined, key=lambda row: row["mape"])[(len(defined) - 1) // 2] if defined else None


def read_table(run: Run) -> RunTable:
    """Read the finished rows of a run.

    Raises:
        InputError: if a shard is damaged.
    """
    return RunTable(run, run.read(COLUMNS).to_pylist(), summarize(run))


def finite(value: float | None) -> bool:
    """Whether a number is defined and finite."""
    return value is not None and math.isfinite(value)


def verdict(table: RunTable) -> Markup:
    """The result in one sentence."""
    rows = table.strongest
    if not rows:
        return Markup("No attack has finished yet")
    found = Markup("{} {} a MAPE below {} {}, as PNG").format(
        _below("verdict", rows),
        "image reaches" if len(rows) == 1 else "images reach",
        share(SMALL_MAPE),
        ball_label(table.norm, rows[0]["eps"]),
    )
    by_start: dict[str, list[Row]] = {}
    for row in rows:
        by_start.setdefault(row["start_source"], []).append(row)
    if not 1 < len(by_start) <= MAX_STARTS:
        return found
    starts = [
        Markup("{} from {}").format(_below(f"verdict/starts/{number}", some), some[0]["start_source"])
        for number, some in enumerate(by_start.values())
    ]
    return found + ": " + Markup(", ").join(starts)


def _below(key: str, rows: Sequence[Row]) -> Markup:
    below = sum(finite(row["mape"]) and row["mape"] < SMALL_MAPE for row in rows)
    return Markup("{} of {}").format(shown_count(f"{key}/below", below), shown_count(f"{key}/count", len(rows)))


def lead(table: RunTable) -> Markup:
    """What was measured, for a reader who has never heard of it, and the two figures that the verdict leaves out."""
    name = table.run.header["settings"]["encoder"]
    found = Markup(
        "Each image x_out began as its start, which has nothing to do with the image x_in, and was changed"
        " until the encoder {} gave it nearly the latent vector z of x_in. MAPE is what still differs between the two"
        " latents. Where it is small, a detector of out-of-distribution images that reads z sees x_in."
    ).format(name)
    rows = table.strongest
    before, after = ([row[name] for row in rows if finite(row[name])] for name in ("mape_before", "mape"))
    if before and after:
        found += Markup(" Here its median fell from {} to {}").format(
            shown_share("verdict/before", quantiles(before)[1]), shown_share("verdict/median", quantiles(after)[1])
        )
        classified = [row for row in rows if row["class_in"] is not None]
        if classified:
            taken = sum(row["class_in"] == row["class_out"] for row in classified)
            found += Markup(", and {} of {} are put into the class of their x_in").format(
                shown_count("verdict/class_taken", taken), shown_count("verdict/classified", len(classified))
            )
        found += "."
    return found


def notices(table: RunTable, skipped: Mapping[str, str]) -> list[Markup]:
    """What is missing or unfinished."""
    run, found = table.run, []
    done, undefined = len(run.done()), sum(not finite(row["mape"]) for row in table.rows)
    if done < run.shard_count:
        found.append(
            Markup("This run is not finished: {} of {} rows are here. Repeat the command below to resume it.").format(
                shown_count("rows/finished", len(table.rows)), shown_count("rows/planned", run.header["rows"])
            )
        )
    if skipped:
        found.append(
            Markup("{} could not be used; the reasons are listed below the gallery.").format(
                count_label(len(skipped), "image")
            )
        )
    if undefined:
        found.append(
            Markup("{} without a MAPE, mostly because z_in is zero. The verdict counts them as not reached.").format(
                count_label(undefined, "image is", "images are")
            )
        )
    return found


def summary(table: RunTable) -> Table:
    """One line per start and eps."""
    classes = any(group.class_taken is not None for group in table.groups)
    parts = len(table.run.header["inputs"].get("parts", [])) > 1
    head = [
        "start",
        "eps",
        "images",
        "MAPE before",
        "MAPE in floating point",
        "MAPE as PNG",
        "quartiles",
        "below 0.1 %",
    ]
    head += ["distance", "evaluations", *(["worst layer"] * parts), *(["class of x_in"] * classes)]
    rows: list[list[Cell]] = []
    for number, group in enumerate(table.groups):
        key = f"groups/{number}"
        cells: list[Cell] = [
            group.start,
            shown_eps(f"{key}/eps", group.eps),
            shown_count(f"{key}/count", group.count),
            shown_share(f"{key}/before", group.before),
            shown_share(f"{key}/float_median", group.float_median),
            shown_share(f"{key}/median", group.median),
            Markup("{} to {}").format(
                shown_share(f"{key}/lower", group.lower), shown_share(f"{key}/upper", group.upper)
            ),
            shown_share(f"{key}/below", group.below),
            shown_number(f"{key}/distance", group.distance, 4),
            shown_number(f"{key}/gradient_evaluations", group.gradient_evaluations, 4),
        ]
        if parts:
            cells.append(shown_share(f"{key}/worst_part", group.worst_part))
        if classes:
            cells.append("–" if group.class_taken is None else shown_share(f"{key}/class_taken", group.class_taken))
        rows.append(cells)
    note = (
        f"Medians per start and eps. MAPE: mean |z_out − z_in|, relative to the largest |z_in|; as PNG is the figure"
        f" that counts. distance: of x_out from its start, {table.norm}, pixels in [0, 1]. evaluations: mean number of"
        " gradients per image. class of x_in: share of x_out that the encoder puts into the class of x_in."
    )
    return Table("Results per start and eps", head, rows, sortable=True, note=note)


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75]).tolist()
    return low, middle, high
