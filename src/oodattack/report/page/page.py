"""What every page has, whatever it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from oodattack.report.page.destination import Destination
from oodattack.report.page.environment import render


@dataclass(frozen=True)
class Page:
    """What every page has.

    Attributes:
        kind: what it is, above the title: "Attack on an encoder".
        title: title of the document.
        verdict: the result in one sentence, which is the heading of the page.
        command: the command that computes the same again.
        says_not: what must not be concluded, a sentence each.
        lead: a paragraph that a first reader needs in order to understand the verdict.
        notices: what is missing or unfinished, a sentence each.
        versions: versions, device and the like.
    """

    kind: str
    title: str
    verdict: str | Markup
    command: str
    says_not: Sequence[str]
    lead: str | Markup = ""
    notices: Sequence[str | Markup] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A list in the gallery's filters: the rows whose column has the chosen value are shown."""

    label: str
    column: str
    values: Sequence[tuple[str, str]]  # as JavaScript's String() writes it, and as it is shown


@dataclass(frozen=True)
class Gallery:
    """A gallery of rows with filters, of which the first are in the page and all others in its data.

    Attributes:
        title: its heading.
        columns: names of the columns, which are also those of the CSV; the first is the number of the row.
        rows: a value per column: numbers, text or None. A search finds the text of all columns.
        cards: HTML of each row; the element with ``data-row="NUMBER"`` opens its panel.
        bars: for each row, the bar that it belongs to in each chart whose bars are buttons.
        choices: lists to filter by.
        sorts: what to sort by: column, after a minus for descending order, and the text; the first is the order of
            the rows and has the column "".
        note: a paragraph above the gallery.
        batch: how many cards are shown at once.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[float | str | None]]
    cards: Sequence[Markup]
    bars: Sequence[Mapping[str, int]]
    choices: Sequence[Choice] = ()
    sorts: Sequence[tuple[str, str]] = (("", "row"),)
    note: str | Markup = ""
    batch: int = 48

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def first(self) -> int:
        """Number of the rows whose cards are in the page itself."""
        return min(self.batch, self.total)

    @property
    def static(self) -> Markup:
        """Cards that are in the page itself."""
        return Markup("\n").join(self.cards[: self.batch])

    @property
    def data(self) -> Mapping[str, Any]:
        """What the script needs to know."""
        return {
            "columns": self.columns,
            "rows": self.rows,
            "cards": self.cards,
            "bars": self.bars,
            "batch": self.batch,
        }


def render_page(template: str, page: Page, destination: Destination, gallery: Gallery | None, **context: Any) -> str:
    """Fill a template that extends ``base.html``.

    Args:
        template: its file name.
        page: what every page has.
        destination: to which all images and rows have been added.
        gallery: the gallery, if the page has one.
        context: what else the template uses.
    """
    return render(
        template,
        page=page,
        gallery=gallery,
        full=destination.full,
        embedded=destination.embedded(),
        **context,
    )
