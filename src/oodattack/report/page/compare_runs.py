"""The page that compares runs."""

import math
from pathlib import Path

from markupsafe import Markup

from oodattack.report.compare import Runs
from oodattack.report.intervals import Interval
from oodattack.report.numbers import count_label, eps_label, share, significant
from oodattack.report.page.charts import Dot, dots
from oodattack.report.page.charts.dots import MAX_ROWS
from oodattack.report.page.compare import ABSENT, SETTINGS_SAY, Comparison, with_interval, write_comparison
from oodattack.report.page.elements import (
    Cell,
    Figure,
    Shown,
    Table,
    shown_count,
    shown_eps,
    shown_number,
    shown_share,
)
from oodattack.report.page.run_table import read_table, verdict
from oodattack.report.paired import Against
from oodattack.runs import Group
from oodattack.runs.summary import SMALL_MAPE
from oodattack.settings.ball import NORM_NAMES

LEAD = Markup(
    "An attack changes an image, its start, within a ball of radius eps until the encoder gives it nearly the latent"
    " vector of another image, x_in. MAPE is what still differs between the two latents: the smaller, the better the"
    " attack."
)
SAYS_NOT = (
    SETTINGS_SAY,
    "Intervals (95 %) allow for the number of images, not for other kinds of images, other starts or other seeds.",
    "MAPEs of different encoders or layers are relative to different latents. That one is smaller does not say that"
    " detectors on it are easier to deceive.",
)


def compare_runs(found: Runs, out: Path) -> Path:
    """Write the page that compares runs.

    Returns:
        The HTML file.
    """
    return write_comparison(
        Comparison(
            kind="run",
            names=found.names,
            paths=[run.path for run in found.runs],
            states=[verdict(read_table(run)).striptags() for run in found.runs],
            settings=found.settings,
            results=run_table(found),
            figure=_figure(found),
            lead=_lead(found),
            says_not=SAYS_NOT,
            notices=_notices(found),
        ),
        out,
    )


def _notices(found: Runs) -> list[str]:
    notices = []
    norms = {NORM_NAMES[run.header["settings"]["norm"]] for run in found.runs}
    if len(norms) > 1:
        notices.append(
            f"The balls have different norms ({', '.join(sorted(norms))}): the same eps is not the same ball."
        )
    for number, (letter, run) in enumerate(zip(found.names, found.runs, strict=True)):
        if len(run.done()) < run.shard_count:
            notices.append(f"{letter} is not finished.")
        against = [one for row in range(len(found.rows)) if (one := found.against(row, number)) is not None]
        independent = sum(one.pairs is None for one in against)
        if independent:
            where = "" if independent == len(against) else f" in {count_label(independent, 'row')} of the table"
            notices.append(
                f"{letter} and {found.names[0]} did not attack the same images from the same starts{where}, so they are"
                " compared as independent samples: part of a difference may be due to these."
            )
    return notices


def _lead(found: Runs) -> Markup:
    """What MAPE is, and how that of each run after the first compares."""
    sentences, first = [LEAD], found.names[0]
    for number, letter in enumerate(found.names[1:], 1):
        ratios = {
            row: one.ratio
            for row in range(len(found.rows))
            if (one := found.against(row, number)) is not None and one.ratio is not None
        }
        if len(ratios) == 1:
            [(row, ratio)] = ratios.items()
            sentences.append(
                Markup("In {}, it is {} times that in {}.").format(letter, _ratio(f"{letter}/{row}", ratio), first)
            )
        elif ratios:
            sentences.append(
                Markup(
                    "It is smaller in {} than in {} for {} of {} pairs of start and eps, and larger for {}: the 95 %"
                    " interval of the ratio does not contain 1."
                ).format(
                    letter,
                    first,
                    shown_count(f"{letter}/smaller", sum(one.high < 1 for one in ratios.values())),
                    shown_count(f"{letter}/ratios", len(ratios)),
                    shown_count(f"{letter}/larger", sum(one.low > 1 for one in ratios.values())),
                )
            )
    return Markup(" ").join(sentences)


def run_table(found: Runs) -> Table:
    """One line per start, eps and run, with what differs from the first run."""
    first = found.names[0]
    head = ["start", "eps", "run", "images", "median MAPE", "below 0.1 %", "gradients"]
    head += [f"MAPE ÷ {first}", f"below 0.1 % − {first}", "pairs"]
    rows: list[list[Cell]] = []
    for row, (start, eps, groups) in enumerate(found.rows):
        for number, (letter, group) in enumerate(zip(found.names, groups, strict=True)):
            if group is not None:
                below = found.mapes[number].below((start, eps))
                cells = _cells(f"{letter}/{row}", group, below)
                against = _against(f"{letter}/{row}", found.against(row, number))
                rows.append([start, shown_eps(f"{letter}/{row}/eps", eps), letter, *cells, *against])
    note = (
        "median MAPE: of the PNGs, with its quartiles. below 0.1 %: share of the images with such a MAPE, with its 95 %"
        f" interval. gradients: mean number of gradient evaluations per image. MAPE ÷ {first}: geometric mean of the"
        f" MAPEs relative to that of {first}; below 1, this run came closer. below 0.1 % − {first}: difference of the"
        " shares, in percentage points. Both with 95 % intervals; bold if these exclude 1 or 0. pairs: number of images"
        f" that both runs attacked from the same start, which are compared one by one; “independent” if images or"
        " starts differ, and the intervals are those of independent samples."
    )
    return Table("MAPE side by side", head, rows, sortable=True, note=note)


def _cells(key: str, group: Group, below: Interval) -> list[Cell]:
    quartiles = (shown_share(f"{key}/{name}", getattr(group, name)) for name in ("median", "lower", "upper"))
    ends = (shown_share(f"{key}/below/{end}", getattr(below, end)) for end in ("value", "low", "high"))
    return [
        shown_count(f"{key}/count", group.count),
        with_interval(*quartiles),
        with_interval(*ends),
        shown_number(f"{key}/gradient_evaluations", group.gradient_evaluations),
    ]


def _against(key: str, found: Against | None) -> list[Cell]:
    if found is None:
        return [ABSENT, ABSENT, ABSENT]
    below = (
        Shown(f"{key}/difference/{end}", value, f"{'+' * (value > 0)}{share(value)}")
        for end, value in vars(found.below).items()
    )
    return [
        ABSENT if found.ratio is None else _ratio(key, found.ratio),
        with_interval(*below, bold=found.below.low > 0 or found.below.high < 0),
        Markup("independent") if found.pairs is None else shown_count(f"{key}/pairs", found.pairs),
    ]


def _ratio(key: str, found: Interval) -> Markup:
    ends = (Shown(f"{key}/ratio/{end}", value, significant(value)) for end, value in vars(found).items())
    return with_interval(*ends, bold=found.high < 1 or found.low > 1)


def _figure(found: Runs) -> Figure | None:
    """Median and quartiles of the MAPE, before and after."""
    rows = [
        (f"start {start}, eps {eps_label(eps)}", [None if group is None else _dot(group) for group in groups])
        for start, eps, groups in found.rows
    ]
    if not any(dot for _, row in rows for dot in row):
        return None
    return dots(
        "mape",
        "MAPE before and after the attacks",
        "For each start, eps and run, the median MAPE before and after, with the quartiles after.",
        rows=rows,
        series=[(name, run.path.name) for name, run in zip(found.names, found.runs, strict=True)],
        label="MAPE",
        text=share,
        interval="quartiles",
        line=(SMALL_MAPE, share(SMALL_MAPE)),
        note="Ring: median of the starts. Dot: median of the PNGs, with the quartiles."
        + f" The first {MAX_ROWS} of {len(rows)} pairs of start and eps." * (len(rows) > MAX_ROWS),
    )


def _dot(group: Group) -> Dot | None:
    values = (group.median, group.lower, group.upper, group.before)
    return Dot(*values) if all(map(math.isfinite, values)) else None
