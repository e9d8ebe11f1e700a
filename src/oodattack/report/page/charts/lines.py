"""Lines with an interval around each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from oodattack.report.page.charts.frame import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axes, svg
from oodattack.report.page.charts.scale import Scale, fit
from oodattack.report.page.elements import Cell, Figure, Shown, Table

COLOURS = 8  # the style sheet has classes line-0 to line-7


@dataclass(frozen=True)
class Line:
    """A line, with the borders of its interval.

    Attributes:
        name: in the legend and the table.
        x: ascending.
        y: one value per x.
        low: lower border of the interval at each x; empty for none.
        high: upper border.
        key: where the values come from, for tests; by default the chart and the name.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    key: str = ""


def lines(
    name: str,
    title: str,
    description: str,
    *,
    drawn: Sequence[Line],
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_marks: Sequence[float] | None = None,
    y_limits: tuple[float, float] | None = None,
    interval: str = "quartiles",
    max_rows: int = 24,
    note: str = "",
) -> Figure:
    """A chart of lines; a logarithmic vertical axis if the values span a decade or more.

    Args:
        name: unique on the page, without spaces.
        title: what it shows.
        description: what can be seen in it, in a sentence.
        drawn: at most eight lines.
        x_label: label of the horizontal axis, with its unit.
        y_label: label of the vertical axis, with its unit.
        x_text: formats an x.
        y_text: formats a y, with its unit.
        x_marks: the values of x that are marked; by default round numbers.
        y_limits: range of the vertical axis; by default that of the values.
        interval: what the band around a line is.
        max_rows: rows of the table; of longer lines it has evenly spaced points.
        note: shown below the chart.

    >>> figure = lines("c", "Error", "It falls.", drawn=[Line("a", [0, 1], [1.0, 0.5])], x_label="step",
    ...     y_label="error", x_text="{:g}".format, y_text="{:g}".format)
    >>> figure.table.head, len(figure.table.rows)
    (['step', 'a'], 2)
    """
    everything = [value for line in drawn for value in (*line.y, *line.low, *line.high)]
    x = fit([value for line in drawn for value in line.x], LEFT, WIDTH - RIGHT, log=False)
    y = Scale(*y_limits, HEIGHT - BOTTOM, TOP) if y_limits else fit(everything, HEIGHT - BOTTOM, TOP, zero=True)
    parts = [axes(Axis(x, x_label, x_text, x_marks), Axis(y, y_label, y_text))]
    for number, line in enumerate(drawn[:COLOURS]):
        if len(line.low):
            forth = [(x(at), y(value)) for at, value in zip(line.x, line.high, strict=True)]
            back = [(x(at), y(value)) for at, value in zip(line.x, line.low, strict=True)][::-1]
            parts.append(Markup('<path class="band line-{}" d="{}Z"/>').format(number, _path(forth + back)))
        places = [(x(at), y(value)) for at, value in zip(line.x, line.y, strict=True)]
        parts.append(Markup('<path class="line line-{}" d="{}"/>').format(number, _path(places)))
    table = _table(name, title, drawn, x_label, x_text, y_text, interval, max_rows)
    legend = [(f"line-{number}", line.name) for number, line in enumerate(drawn[:COLOURS])]
    return Figure(title, svg(name, title, description, parts), table, legend, note)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)


def _table(
    name: str,
    title: str,
    drawn: Sequence[Line],
    x_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    interval: str,
    max_rows: int,
) -> Table:
    head, columns = [x_label], []
    for line in drawn:
        head.append(line.name)
        key = line.key or f"charts/{name}/{line.name}"
        columns.append((f"{key}/value", dict(zip(line.x, line.y, strict=True))))
        if len(line.low):
            head += [f"{interval}, lower", f"{interval}, upper"]
            columns.append((f"{key}/low", dict(zip(line.x, line.low, strict=True))))
            columns.append((f"{key}/high", dict(zip(line.x, line.high, strict=True))))
    places = sorted({at for line in drawn for at in line.x})
    chosen = [places[number] for number in np.linspace(0, len(places) - 1, min(max_rows, len(places))).astype(int)]
    rows: list[list[Cell]] = []
    for at in chosen:
        cells = [
            Shown(f"{key}/{at:g}", values[at], y_text(values[at])) if at in values else "" for key, values in columns
        ]
        rows.append([x_text(at), *cells])
    return Table(title, head, rows)
