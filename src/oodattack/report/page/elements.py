"""What pages consist of: numbers that name their origin, tables, and figures with a table twin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from oodattack.report.numbers import count, eps_label, share, significant


@dataclass(frozen=True)
class Shown:
    """A number on a page. It becomes a ``<data>`` element, whose value is exact and whose text is for the reader.

    Attributes:
        key: where the number comes from, such as ``rows/17/mape``; tests compare it with the results by this key.
        value: the number; None, NaN and infinities have no value in HTML and are shown by their text.
        text: the formatted number.

    >>> print(Shown("rows/17/mape", 0.000123, "0.0123 %").__html__())
    <data value="0.000123" data-key="rows/17/mape">0.0123 %</data>
    """

    key: str
    value: float | None
    text: str

    def __html__(self) -> str:
        exact = "" if self.value is None or not math.isfinite(self.value) else str(self.value)
        # Formatted without Markup.format, which is slow: a page has hundreds of thousands of numbers.
        html = f'<data value="{exact}" data-key="{escape(self.key)}">{escape(self.text)}</data>'
        return Markup(html)  # noqa: S704 -- escaped; plain text would be escaped again


Cell = str | Shown | Markup


@dataclass(frozen=True)
class Table:
    """A table; all columns but the first are aligned to the right.

    Attributes:
        title: what the table shows, for those who hear it.
        head: titles of the columns.
        rows: cells; the first of each row is its heading.
        sortable: whether a reader with JavaScript may sort it by any column.
        note: what its columns mean; may be empty.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """An SVG with the table of the numbers that it draws.

    Attributes:
        title: the caption above the drawing.
        svg: the drawing.
        table: the same numbers, for readers who cannot see the drawing or want to copy them.
        legend: for each series, its class in the style sheet and its name.
    note: what a first reader needs in order to understand it; may be empty.
    """

    title: str
    svg: Markup
    table: Table
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""


def shown_share(key: str, fraction: float | None) -> Shown:
    """A fraction as a percentage; None is undefined.

    >>> shown_share("a", 0.5).text.split(), shown_share("a", None).text
    (['50', '%'], 'undefined')
    """
    return Shown(key, fraction, "undefined" if fraction is None else share(fraction))


def shown_count(key: str, value: int) -> Shown:
    """A whole number.

    >>> shown_count("a", 1000).text
    '1,000'
    """
    return Shown(key, value, count(value))


def shown_number(key: str, value: float | None, digits: int = 3) -> Shown:
    """A number with so many significant digits; None is undefined.

    >>> shown_number("a", 4.99987).text
    '5'
    """
    return Shown(key, value, "undefined" if value is None else significant(value, digits))


def shown_eps(key: str, eps: float) -> Shown:
    """A radius of a ball.

    >>> shown_eps("a", 8 / 255).text, shown_eps("a", float("inf")).text
    ('8/255', 'inf')
    """
    return Shown(key, eps, eps_label(eps))
