"""What the pages that compare runs and audits have in common."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from oodattack.report.numbers import count_label
from oodattack.report.page.destination import SingleFile
from oodattack.report.page.elements import Cell, Figure, Shown, Table
from oodattack.report.page.page import Page, render_page

ABSENT = Markup("–")  # not plain text, so that its column is aligned like the numbers of the others
SETTINGS_SAY = (
    "A difference is due to one setting only if no other differs: see the table of settings. What is not in it was the"
    " same, as far as it is recorded."
)


@dataclass(frozen=True)
class Comparison:
    """The content of a page that compares runs or audits.

    Attributes:
        kind: "run" or "audit".
        names: a letter for each.
        paths: the directory of each.
        states: the result of each in a sentence, or how far it has got.
        settings: the settings in which they differ.
        results: the table of results; without rows if there is nothing to compare.
        figure: a drawing of the same, if there is one.
        lead: what a first reader needs to know, and what differs most.
        says_not: what must not be concluded.
        notices: what is special about these, a sentence each.
        missing: what is missing, a sentence each.
    """

    kind: str
    names: Sequence[str]
    paths: Sequence[Path]
    states: Sequence[Cell]
    settings: Sequence[tuple[str, Sequence[str]]]
    results: Table
    figure: Figure | None
    lead: Markup
    says_not: Sequence[str]
    notices: Sequence[str]
    missing: Sequence[str] = ()


def write_comparison(found: Comparison, out: Path) -> Path:
    """Write the page.

    Returns:
        The HTML file.
    """
    named = [
        f"{path.name or path}\N{NO-BREAK SPACE}({name})" for name, path in zip(found.names, found.paths, strict=True)
    ]
    heading = f"{count_label(len(named), found.kind)} compared: {', '.join(named)}"
    page = Page(
        kind=f"oodattack: comparison of {found.kind}s",
        title=heading,
        verdict=heading,
        command=shlex.join(["oodattack", "compare", *map(str, found.paths), "--out", str(out)]),
        says_not=found.says_not,
        lead=found.lead,
        notices=found.notices,
    )
    which = [[*one] for one in zip(found.names, map(str, found.paths), found.states, strict=True)]
    settings = [[name, *texts] for name, texts in found.settings]
    destination = SingleFile(out)
    html = render_page(
        "compare.html",
        page,
        destination,
        None,
        which=Table("What is compared", ["name", "directory", "result"], which),
        settings=Table("Settings that differ", ["setting", *found.names], settings),
        results=found.results,
        figure=found.figure,
        missing=found.missing,
    )
    return destination.write(html)


def with_interval(value: Shown, low: Shown, high: Shown, *, bold: bool = False) -> Markup:
    """A number with its interval, in bold if it matters."""
    template = "<b>{}</b> <small>({} to {})</small>" if bold else "{} <small>({} to {})</small>"
    return Markup(template).format(value, low, high)  # noqa: S704 -- one of two constants
