"""Histograms, whose bars may be buttons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from oodattack.report.numbers import count, share
from oodattack.report.page.charts.frame import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axes, mark, svg
from oodattack.report.page.charts.scale import Scale
from oodattack.report.page.elements import Cell, Figure, Table, shown_count


@dataclass(frozen=True)
class Bars:
    """One series of a histogram.

    Attributes:
        name: in the legend and the table.
        kind: class in the style sheet: "before", "after", "in", "out".
        counts: one number per bin.
        apart: how many have no place on the axis, because they are undefined or infinite.
    """

    name: str
    kind: str
    counts: Sequence[int]
    apart: int = 0


def histogram(
    name: str,
    title: str,
    description: str,
    *,
    edges: Sequence[float],
    bars: Sequence[Bars],
    label: str,
    text: Callable[[float], str],
    log: bool = False,
    buttons: str = "",
    noun: str = "images",
    line: tuple[float, str] | None = None,
    apart: str = "undefined",
    relative: bool = False,
    note: str = "",
) -> Figure:
    """A histogram of one or several series over the same bins.

    Args:
        name: unique on the page, without spaces.
        title: what it shows.
        description: what can be seen in it, in a sentence, for those who cannot see it.
        edges: borders of the bins, ascending, one more than there are bins.
        bars: the series; later ones are drawn over earlier ones.
        label: label of the horizontal axis, with its unit.
        text: formats an edge, with its unit.
        log: whether the axis is logarithmic.
        buttons: the name of the series whose bars are buttons; each has the attributes ``data-chart`` (the name) and
            ``data-bar`` (the number of the bin; that of what has no place is the number of bins).
        noun: what is counted.
        line: a value to mark, such as a threshold, and its name.
        apart: the name of what has no place on the axis.
        relative: whether heights are shares of each series, for series of different sizes; the table has counts.
        note: shown below the chart.

    >>> figure = histogram("h", "Errors", "Most are small.", edges=[0, 1, 2], bars=[Bars("after", "after", [3, 1])],
    ...     label="error", text="{:g}".format, buttons="after")
    >>> figure.svg.count('role="button"'), [str(cell) for cell in figure.table.rows[0]][0]
    (2, '0 to 1')
    """
    with_apart = any(series.apart for series in bars)
    right = WIDTH - RIGHT - (56 if with_apart else 0)
    x = Scale(edges[0], edges[-1], LEFT, right, log)
    whole = {series.name: max(1, sum(series.counts) + series.apart) if relative else 1 for series in bars}
    highest = max((max([*series.counts, series.apart]) / whole[series.name] for series in bars), default=0)
    y = Scale(0, (highest or 1) * 1.12, HEIGHT - BOTTOM, TOP)
    if relative:
        vertical = Axis(y, f"share of {noun}", share)
    else:
        vertical = Axis(y, noun, lambda tick: count(int(tick)), [tick for tick in y.ticks(4) if tick == int(tick)])
    drawn = [axes(Axis(x, label, text), vertical)]
    if line is not None:
        drawn.append(mark(x, *line))
    spans = [(x(low), x(high)) for low, high in pairwise(edges)]
    names = [f"{text(low)} to {text(high)}" for low, high in pairwise(edges)]
    if with_apart:
        spans.append((right + 14, WIDTH - RIGHT))
        names.append(apart)
        drawn.append(
            Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(
                right + 14 + (WIDTH - RIGHT - right - 14) / 2 - 4, HEIGHT - BOTTOM + 16, apart
            )
        )
    for series in bars:
        counts = [*series.counts, *([series.apart] if with_apart else [])]
        can_choose = series.name == buttons
        for number, (value, (left, stop)) in enumerate(zip(counts, spans, strict=True)):
            if value:
                what = f"{count(value)} {noun}, {names[number]}"
                drawn.append(
                    _bar(
                        name,
                        number,
                        what,
                        y(value / whole[series.name]),
                        left,
                        stop,
                        series.kind,
                        can_choose=can_choose,
                    )
                )
    return Figure(
        title,
        svg(name, title, description, drawn, buttons=bool(buttons)),
        _table(name, title, names, bars, with_apart=with_apart),
        [(series.kind, series.name) for series in bars],
        note,
    )


def _bar(
    chart: str, number: int, what: str, top: float, left: float, right: float, kind: str, *, can_choose: bool
) -> Markup:
    bottom = HEIGHT - BOTTOM
    fill = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        kind, left + 0.5, min(top, bottom - 2), max(1, right - left - 1), max(2, bottom - top)
    )
    if not can_choose:
        return fill
    return Markup(
        '<g class="bar" role="button" tabindex="-1" aria-pressed="false" aria-label="{}" data-chart="{}" data-bar="{}">'
        '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>{}</g>'
    ).format(what, chart, number, left, TOP, right - left, bottom - TOP, what, fill)


def _table(name: str, title: str, names: Sequence[str], bars: Sequence[Bars], *, with_apart: bool) -> Table:
    rows: list[list[Cell]] = []
    for number, bin_name in enumerate(names):
        is_apart = with_apart and number == len(names) - 1
        values = [series.apart if is_apart else series.counts[number] for series in bars]
        if any(values):
            cells = [
                shown_count(f"charts/{name}/{series.name}/{number}", value)
                for series, value in zip(bars, values, strict=True)
            ]
            rows.append([bin_name, *cells])
    return Table(title, ["range", *(series.name for series in bars)], rows)
