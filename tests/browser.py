"""Chromium for the tests of pages: offline, and with a record of whatever a page must not do."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Request, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MISSING = "the tests of pages need Chromium: install the package chromium (apt-get install chromium)"
LOCAL = ("file:", "data:", "blob:")
HOSTILE_NAMES = [
    '"><script>window.hacked=1</script>',
    "<img src=x onerror=window.hacked=2>",
    "a#b%41?c&amp;d'e\"f",
    "\u202egnp.txt\u2066",
    f"{'long ' * 30}/{'name' * 38}",
]


@dataclass
class Visit:
    """An open page, and what it did wrong: messages on the console, exceptions, requests beyond the page's folder."""

    page: Page
    wrong: list[str] = field(default_factory=list)

    def rows(self) -> list[int]:
        """Numbers of the rows in the gallery, after all of them have been shown."""
        while self.page.locator("#more").is_visible():
            self.page.locator("#more").click()
        cards = self.page.locator(".card")
        return [int(row) for row in cards.evaluate_all("cards => cards.map(card => card.dataset.row)")]

    def open_row(self, number: int) -> None:
        """Open the panel of a row, and wait until its content is there."""
        self.page.evaluate("row => { location.hash = `row=${row}` }", number)
        self.page.locator("#panel-title", has_text=f"Row {number}:").wait_for()

    def refuse_dialog(self, dialog: Dialog) -> None:
        """Note what only a script that was smuggled in would show."""
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def refuse_network(self, request: Request) -> None:
        """Note what would have left the folder of the page."""
        if not request.url.startswith(LOCAL):
            self.wrong.append(f"request: {request.url}")

    def violations(self) -> list[str]:
        """What axe finds."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


class Cell(NamedTuple):
    """A cell below the heading of its column; numbers without a value in HTML are None."""

    heading: str
    numbers: list[float | None]


def read_table(here: Visit, title: str, headings: int) -> dict[tuple[str, ...], list[Cell]]:
    """The cells of a table by the headings of their rows, as a reader finds them: the keys of numbers do not matter.

    Args:
        here: the page.
        title: the title of the table.
        headings: how many cells of a row name it.

    Returns:
        For each row, its other cells from left to right.
    """
    heads, rows = here.page.locator(f"[aria-label='Table: {title}'] table").evaluate(
        """table => [[...table.tHead.rows[0].cells].map(cell => cell.textContent.trim()),
            [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => [cell.textContent.trim(),
                [...cell.querySelectorAll("data")].map(one => one.value === "" ? null : Number(one.value))]))]"""
    )
    found: dict[tuple[str, ...], list[Cell]] = {}
    for row in rows:
        name = tuple(text for text, _ in row[:headings])
        assert name not in found
        cells = [Cell(head, numbers) for head, (_, numbers) in zip(heads, row, strict=True)]
        found[name] = cells[headings:]
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; without one, the test is skipped, but fails in continuous integration."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, path: Path, hash_: str = "", **options: Any) -> Iterator[Visit]:
    """Open a page from a file, without a network; at the end it must have done nothing wrong."""
    context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(90_000)  # a slow machine is not a failure
    found = Visit(context.new_page())
    page = found.page
    page.on("console", lambda message: found.wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.wrong.append(f"exception: {error}"))
    page.on("dialog", found.refuse_dialog)
    page.on("request", found.refuse_network)
    page.on("requestfailed", lambda one: found.wrong.append(f"failed: {one.url[:200]}"))
    try:
        page.goto(path.resolve().as_uri() + hash_)
        yield found
    finally:
        context.close()
    assert found.wrong == []
