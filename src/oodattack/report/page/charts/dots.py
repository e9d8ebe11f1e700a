"""Dots with an interval each, one below the other, and what they were before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from oodattack.report.page.charts.frame import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, axes, mark, svg
from oodattack.report.page.charts.lines import COLOURS
from oodattack.report.page.charts.scale import Scale, fit
from oodattack.report.page.elements import Cell, Figure, Shown, Table

MAX_ROWS = 24
MAX_NAME = 56  # characters of a row's name
_NAME_HEIGHT, _DOT_HEIGHT = 24, 15
_TOP = TOP + 12  # below the name of the marked line


@dataclass(frozen=True)
class Dot:
    """A number with its interval, and what it was before.

    Attributes:
        value: the number.
        low: lower border of its interval.
        high: upper border.
        before: the number before.
    """

    value: float
    low: float
    high: float
    before: float


def dots(
    name: str,
    title: str,
    description: str,
    *,
    rows: Sequence[tuple[str, Sequence[Dot | None]]],
    series: Sequence[tuple[str, str]],
    label: str,
    text: Callable[[float], str],
    interval: str,
    limits: tuple[float, float] | None = None,
    line: tuple[float, str] | None = None,
    note: str = "",
) -> Figure:
    """A chart of dots; a logarithmic axis if the values span a decade or more.

    Args:
        name: unique on the page, without spaces.
        title: what it shows.
        description: what can be seen in it, in a sentence.
        rows: at most `MAX_ROWS`, each with its name and a dot per series, None for a missing one.
        series: a letter and a name for each series; the first eight are drawn.
        label: label of the horizontal axis, with its unit.
        text: formats a value, with its unit.
        interval: what the line through a dot is.
        limits: range of the axis; by default that of the values.
        line: a value to mark, and its name.
        note: shown below the chart.

    >>> figure = dots("d", "AUROC", "It falls.", rows=[("KNN", [Dot(0.2, 0.1, 0.3, 0.9)])],
    ...     series=[("A", "plain")], label="AUROC", text="{:g}".format, interval="95 %")
    >>> figure.table.head, figure.svg.count("<circle")
    (['of', 'in', 'before', 'after', '95 %, lower', '95 %, upper'], 2)
    """
    shown = [(row, list(found[:COLOURS])) for row, found in rows[:MAX_ROWS]]
    values = [end for _, found in shown for dot in found if dot for end in (dot.value, dot.low, dot.high, dot.before)]
    x = (
        Scale(*limits, LEFT, WIDTH - RIGHT)
        if limits
        else fit([*values, *([line[0]] if line else [])], LEFT, WIDTH - RIGHT)
    )
    height = _TOP + BOTTOM + 6 + sum(_NAME_HEIGHT + _DOT_HEIGHT * len(found) for _, found in shown)
    parts = [axes(Axis(x, label, text), Axis(Scale(0, 1, 0, 1), "", text, []), height)]
    if line is not None:
        parts.append(mark(x, *line, height))
    table: list[list[Cell]] = []
    down = _TOP
    for place, (row, found) in enumerate(shown):
        down += _NAME_HEIGHT
        cut = row if len(row) <= MAX_NAME else f"{row[: MAX_NAME - 1]}…"
        parts.append(Markup('<text class="name" x="4" y="{}">{}</text>').format(down - 6, cut))
        for number, (dot, (letter, _)) in enumerate(zip(found, series, strict=False)):
            down += _DOT_HEIGHT
            if dot is not None:
                parts.append(_dot(dot, x, down - _DOT_HEIGHT / 2, letter, number))
                ends = (("before", dot.before), ("value", dot.value), ("low", dot.low), ("high", dot.high))
                cells = [Shown(f"charts/{name}/{place}/{letter}/{end}", value, text(value)) for end, value in ends]
                table.append([row, letter, *cells])
    head = ["of", "in", "before", "after", f"{interval}, lower", f"{interval}, upper"]
    legend = [(f"line-{number}", f"{letter}: {one}") for number, (letter, one) in enumerate(series[:COLOURS])]
    return Figure(title, svg(name, title, description, parts, height=height), Table(title, head, table), legend, note)


def _dot(dot: Dot, x: Scale, down: float, letter: str, number: int) -> Markup:
    return Markup(
        '<text class="tick end" x="{left}" y="{base:.1f}">{letter}</text>'
        '<g class="line-{number}"><circle class="line" cx="{before:.1f}" cy="{down:.1f}" r="5.5"/>'
        '<path class="line" d="M{low:.1f} {down:.1f}H{high:.1f}"/>'
        '<circle class="spot" cx="{value:.1f}" cy="{down:.1f}" r="4"/></g>'
    ).format(
        left=LEFT - 12,
        base=down + 4,
        letter=letter,
        number=number,
        down=down,
        before=x(dot.before),
        low=x(dot.low),
        high=x(dot.high),
        value=x(dot.value),
    )
