"""Tables in Markdown."""

from collections.abc import Sequence


def head(cells: Sequence[str]) -> list[str]:
    """The two lines that begin a table: headings, which may be untrusted text, and the rule below them.

    >>> head(["a", "<b>"])
    ['| a | &#60;b&#62; |', '| --- | --- |']
    """
    return [line([cell(text) for text in cells]), line(["---"] * len(cells))]


def line(cells: Sequence[str]) -> str:
    """A row of cells that are Markdown already.

    >>> line(["a", "b"])
    '| a | b |'
    """
    return "| " + " | ".join(cells) + " |"


def cell(text: str) -> str:
    r"""Untrusted text with Markdown and HTML escaped.

    >>> print(cell("<b>a_b"))
    &#60;b&#62;a\_b
    """
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"&#{ord(sign)};" if sign in "<>|" else f"\\{sign}")
    return " ".join(text.split())
