"""The page of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from oodattack.report.numbers import ball_label, count, count_label, eps_label
from oodattack.report.page.command import command
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Table, shown_share
from oodattack.report.page.page import Choice, Gallery, Page, render_page
from oodattack.report.page.run_charts import Histograms, against_eps, convergence
from oodattack.report.page.run_rows import PANEL_COLUMNS, card, latents, panel, pictures
from oodattack.report.page.run_table import COLUMNS, Row, RunTable, lead, notices, read_table, summary, verdict
from oodattack.runs import Run
from oodattack.runs.summary import SMALL_MAPE
from oodattack.settings import AttackSettings

SAYS_NOT = (
    "A small MAPE means that this encoder gives x_out and x_in almost the same latent. It does not say that every"
    " detector accepts x_out: one that reads something else may reject it. An audit (oodattack audit) measures that.",
    "Attacks that did not succeed do not show that the encoder withstands them: more steps, more restarts or another"
    " method may find what these did not.",
    "The figures hold for these images, starts, radii and this encoder, and for the 8-bit PNGs as they were stored;"
    " resizing, compressing or photographing them changes the latent, unless that was part of the attack (--pipeline).",
    "That x_out looks like its start is a matter of the radius eps and of the reader's eye; nothing here measures what"
    " people see.",
)
SORTS = (
    *(("", "row"), ("mape", "MAPE, smallest first"), ("-mape", "MAPE, largest first")),
    *(("-mape_before", "MAPE before, largest first"), ("-distance", "distance, largest first"), ("x_in_name", "x_in")),
)


def run_page(run: Run, destination: Destination) -> Path:
    """Write the page of a run, finished or not.

    Returns:
        The HTML file.

    Raises:
        InputError: if a shard is damaged, or the page cannot be written.
    """
    table = read_table(run)
    skipped = run.skipped()
    histograms = Histograms(table)
    cards, hero = _add_rows(run, table, destination)
    gallery = _gallery(table, cards, histograms) if table.rows else None
    curves = [figure for figure in (convergence(run, table), against_eps(table)) if figure is not None]
    html = render_page(
        "run.html",
        _page(run, table, skipped),
        destination,
        gallery,
        hero=hero,
        facts=_facts(run, table),
        summary=summary(table),
        histograms=histograms.draw(),
        curves=curves,
        skipped=Table("Name and reason", ["image", "reason"], [[*one] for one in skipped.items()]),
    )
    return destination.write(html)


def _add_rows(run: Run, table: RunTable, destination: Destination) -> tuple[list[Markup], Mapping[str, Any] | None]:
    """Add all images and panels, one shard at a time; returns the cards and the typical result."""
    cards, hero = [], None
    for number in run.done():
        for row in run.read_shard(number, PANEL_COLUMNS).to_pylist():
            cards.append(card(row, destination))
            destination.row(row["row"], panel(row, destination))
            if table.typical is not None and row["row"] == table.typical["row"]:
                hero = _hero(row, table, destination)
    return cards, hero


def _hero(row: Row, table: RunTable, destination: Destination) -> Mapping[str, Any]:
    note = Markup("Row {} is in the middle of the {} {}, ordered by MAPE: {} after the attack, {} before.").format(
        row["row"],
        count_label(len(table.strongest), "image"),
        ball_label(table.norm, row["eps"]),
        shown_share(f"rows/{row['row']}/mape", row["mape"]),
        shown_share(f"rows/{row['row']}/mape_before", row["mape_before"]),
    )
    if row["mape"] < SMALL_MAPE:
        note += " To the encoder, x_out is nearly x_in; to the eye, it is its start."
    return {"images": pictures(row, destination), "note": note, "charts": latents(row, prefix="hero")}


def _page(run: Run, table: RunTable, skipped: Mapping[str, str]) -> Page:
    sentence = verdict(table)
    return Page(
        kind="oodattack: attack on an encoder",
        title=sentence.striptags(),
        verdict=sentence,
        lead=lead(table),
        command=command("attack", AttackSettings, run.header["settings"], str(run.path)),
        says_not=SAYS_NOT,
        notices=notices(table, skipped),
        versions=run.header["environment"],
    )


def _facts(run: Run, table: RunTable) -> Sequence[tuple[str, str]]:
    settings, inputs = run.header["settings"], run.header["inputs"]
    radii = ", ".join(eps_label(float(eps)) for eps in settings["eps"])
    size = " × ".join(map(count, inputs.get("input_size", [])))
    numbers = f", {count(inputs['latent_dim'])} numbers" if "latent_dim" in inputs else ""
    facts = [
        ("encoder f", settings["encoder"]),
        ("latent z", f"{inputs['layer']}{numbers}"),
        ("image size", f"{size} pixels" if size else ""),
        ("ball", f"{table.norm}, eps {radii}, pixels in [0, 1]"),
        ("method", f"{settings['method']}, {count(settings['steps'])} steps"),
        ("behind", inputs.get("pipeline") or ""),
        ("device", str(run.header["environment"].get("device", ""))),
    ]
    return [(name, text) for name, text in facts if text]  # runs of earlier versions lack some


def _gallery(table: RunTable, cards: Sequence[Markup], histograms: Histograms) -> Gallery:
    choices = []
    for label, column in (("Start", "start_source"), ("eps", "eps")):
        values = list(dict.fromkeys(row[column] for row in table.rows))
        if len(values) > 1:
            texts = [value if column == "start_source" else eps_label(value) for value in values]
            choices.append(Choice(label, column, list(zip(map(_plain_text, values), texts, strict=True))))
    return Gallery(
        title="All images",
        columns=COLUMNS,
        rows=[[_plain(row[name]) for name in COLUMNS] for row in table.rows],
        cards=cards,
        bars=[{histograms.chart(row): histograms.bar(row["mape"])} for row in table.rows],
        choices=choices,
        sorts=SORTS,
        note="Choose an image to see it at full size, with its latents and its convergence.",
    )


def _plain(value: Any) -> Any:
    """A value as JSON, which lacks infinities; JavaScript and pandas read this word as one."""
    return "Infinity" if isinstance(value, float) and math.isinf(value) else value


def _plain_text(value: Any) -> str:
    return str(_plain(value))
