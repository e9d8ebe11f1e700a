"""The page of an audit that has no results yet."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from oodattack.auditing.store import Audit
from oodattack.report.numbers import count_label
from oodattack.report.page.audit_words import LEAD
from oodattack.report.page.command import command
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Cell, Table, shown_count
from oodattack.report.page.page import Page, render_page
from oodattack.settings.audit import AuditSettings

SAYS_NOT = ("Nothing follows about any detector before the audit is finished.",)


def unfinished_page(audit: Audit, destination: Destination) -> Path:
    """Write a page that shows what is finished.

    Returns:
        The HTML file.
    """
    header = audit.read_header()
    attacks = audit.rows_done()
    fits, sets = sorted(audit.fits()), sorted(file.stem for file in (audit.path / "samples").glob("*.parquet"))
    stages: list[list[Cell]] = [
        ["sets of starts read", shown_count("unfinished/sets", len(sets)), ", ".join(sets) or "–"],
        ["detectors fitted", shown_count("unfinished/fits", len(fits)), ", ".join(fits) or "–"],
        ["attacks begun or finished", shown_count("unfinished/attacks", len(attacks)), "listed below"],
        ["scores and results", shown_count("unfinished/results", 0), "come last"],
    ]
    page = Page(
        kind="oodattack: audit of detectors of out-of-distribution images",
        title="This audit is not finished",
        verdict="This audit is not finished",
        lead=LEAD,
        command=command("audit", AuditSettings, header["settings"], str(audit.path)),
        says_not=SAYS_NOT,
        notices=[
            Markup(
                "There are no verdicts yet: {} and {} are stored. Repeat the command that began it to finish it; the"
                " one at the end of this page lacks what may be added to an audit later (starts, detectors, attacks,"
                " eps)."
            ).format(count_label(len(fits), "fit"), count_label(len(attacks), "attack"))
        ],
        versions=header["environment"],
    )
    rows: list[list[Cell]] = [
        [key, shown_count(f"unfinished/rows/{number}", rows_done)]
        for number, (key, rows_done) in enumerate(attacks.items())
    ]
    limit: Any = header["settings"]["limit"]
    note = f"Images made so far, of at most {limit} for each attack."
    html = render_page(
        "audit_unfinished.html",
        page,
        destination,
        None,
        stages=Table("Stages", ["stage", "finished", "which"], stages),
        attacks=Table("Attacks", ["attack", "images"], rows, sortable=True, note=note) if rows else None,
    )
    return destination.write(html)
