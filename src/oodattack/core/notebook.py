"""How results look in notebooks: a table in HTML, in which everything is escaped."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """A title, a table and a note in HTML; all of it is text, none of it markup.

    >>> html_table("Run <1>", ["name"], [["a & b"]])
    '<p>Run &lt;1&gt;</p><table><tr><th>name</th></tr><tr><td>a &amp; b</td></tr></table>'
    """
    lines = [_row("th", headings), *(_row("td", row) for row in rows)]
    after = f"<p>{escape(note)}</p>" if note else ""
    return f"<p>{escape(title)}</p><table>{''.join(lines)}</table>{after}"


def _row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
