"""The page of an audit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from oodattack.auditing.store import Audit, open_audit
from oodattack.auditing.verdict import VERDICTS
from oodattack.report.numbers import ball_label, count, count_label, eps_label, share, significant
from oodattack.report.page import audit_tables as tables
from oodattack.report.page.audit_cells import Panels, cells, example
from oodattack.report.page.audit_charts import against_eps
from oodattack.report.page.audit_heatmap import heatmap
from oodattack.report.page.audit_unfinished import unfinished_page
from oodattack.report.page.audit_words import LEAD, SAYS_NOT, norm, notices, sentence, verdict
from oodattack.report.page.command import command
from oodattack.report.page.destination import Destination
from oodattack.report.page.elements import Shown
from oodattack.report.page.page import Page, render_page
from oodattack.report.page.run_rows import Picture, png_size
from oodattack.report.page.traced import Traced
from oodattack.settings.audit import AuditSettings


def audit_page(directory: Path, destination: Destination) -> Path:
    """Write the page of an audit, finished or not.

    Args:
        directory: the directory of the audit.
        destination: where the page goes.

    Returns:
        The HTML file.

    Raises:
        InputError: if a file of the audit is damaged, or the page cannot be written.
    """
    audit = open_audit(directory)
    if not (audit.path / "results.json").is_file():
        return unfinished_page(audit, destination)
    results = audit.read_results()
    traced = Traced(results)
    found = cells(results)
    panels = Panels(audit, traced, audit.read_scores(), destination)
    panels.write(found)
    hero = _hero(panels, destination)
    numbers = range(len(results["detectors"]))
    html = render_page(
        "audit.html",
        _page(audit, results, panels.unreadable),
        destination,
        None,
        hero=hero,
        heatmap=heatmap(traced, found),
        meanings=VERDICTS,
        sentences=[
            (results["detectors"][n]["name"], results["detectors"][n]["verdict"], sentence(traced, n)) for n in numbers
        ],
        facts=_facts(traced),
        short=tables.short(results),
        curves=[against_eps(traced, number) for number in numbers],
        measures=tables.all_measures(traced),
        budgets=tables.budgets(traced),
        jointly=tables.jointly(traced),
        outside=tables.outside(traced),
        attacks=tables.shared_attacks(traced),
        flags=[(row["name"], flag) for row in results["detectors"] for flag in row["flags"]],
        unchecked=_unchecked(results),
        follows=[(row["name"], row["reads"], row["applicable"]["direct"]) for row in results["detectors"]],
        absent=tables.reasons(
            "Detectors that were not audited", "detector", [(a["name"], a["reason"]) for a in results["absent"]]
        ),
        unreadable=tables.reasons("Attacks whose images cannot be read", "attack", list(panels.unreadable.items())),
        failures=tables.reasons("What failed", "attack or score", list(results["failures"].items())),
        skipped=tables.reasons(
            "Images that could not be decoded",
            "image",
            [one for reasons in results["skipped"].values() for one in reasons.items()],
        ),
    )
    return destination.write(html)


def _page(audit: Audit, results: Mapping[str, Any], unreadable: Mapping[str, str]) -> Page:
    heading = verdict(results)
    return Page(
        kind="oodattack: audit of detectors of out-of-distribution images",
        title=heading.striptags(),
        verdict=heading,
        lead=LEAD,
        command=command("audit", AuditSettings, results["settings"], str(audit.path)),
        says_not=SAYS_NOT,
        notices=notices(audit, results, unreadable),
        versions=results["environment"],
    )


def _facts(traced: Traced) -> list[tuple[str, str | Shown]]:
    subject, settings = traced.at("subject"), traced.at("settings")
    radii = ", ".join(eps_label(float(eps)) for eps in settings["eps"])
    classes = "" if subject["classes"] is None else f", {count_label(subject['classes'], 'class', 'classes')}"
    found: list[tuple[str, str | Shown]] = [
        (subject["kind"], f"{subject['encoder']}{classes}"),
        ("latent z", f"{count(subject['latent_dim'])} numbers"),
        ("ball", f"{norm(traced.results)}, eps {radii}, pixels in [0, 1]"),
        ("steps", count_label(settings["steps"], "step")),
        ("detectors fitted on", count_label(subject["train_images"], "image")),
        ("thresholds from", Markup("{} held-out images").format(traced.count("sets", "in"))),
        ("attacks from each set", traced.count("sets", "targets")),
    ]
    for name, accuracy in (("training", "train_accuracy"), ("held-out", "test_accuracy")):
        if subject[accuracy] is not None:
            found.append((f"accuracy, {name} images", traced.number("subject", accuracy, text=share)))
    return [*found, ("every image through", subject["pipeline"])] if subject["pipeline"] else found


def _unchecked(results: Mapping[str, Any]) -> list[str]:
    """What the audit did not try, and how to try it."""
    found = []
    if not results["settings"]["budget"]:
        found.append("Not checked: whether more steps would lower AUROCs (--budget).")
    if "inf" not in results["settings"]["eps"]:
        found.append("Not checked: whether AUROCs reach 0 without a bound (--eps inf).")
    return found


def _hero(panels: Panels, destination: Destination) -> Mapping[str, Any] | None:
    """An image that fooled the detector that fell first."""
    chosen = example(panels, cells(panels.traced.results))
    if chosen is None:
        return None
    cell, made, row = chosen
    detector = panels.traced.at("detectors", cell.detector, "name")
    sample = panels.audit.read_samples(cell.starts).to_pylist()[row]
    x_out = panels.image(made, row, sample)
    if x_out is None:
        return None
    before, after, limit = float(made.before[row]), float(made.after[row]), made.limit
    images = [
        ("x_in", sample["x_in"]["bytes"], Markup("{}<br>in-distribution").format(sample["x_in_name"])),
        (
            "start",
            sample["start"]["bytes"],
            Markup("{}<br>score {}: rejected").format(
                sample["start_name"], Shown(f"scores/{cell.number}/before/{row}", before, significant(before))
            ),
        ),
        (
            "x_out",
            x_out,
            Markup("attacked {}<br>score {}: passes").format(
                ball_label(norm(panels.traced.results), cell.eps),
                Shown(f"scores/{cell.number}/after/{row}", after, significant(after)),
            ),
        ),
    ]
    note = Markup(
        "{} rejects images with a score above {}, such as the start. The attack changed the start until it passed."
    ).format(detector, Shown(f"scores/{cell.number}/limit", limit, significant(limit)))
    return {
        "title": f"An image that passes {detector}",
        "images": [
            Picture(destination.image(png), f"{title}, {text.striptags()}", png_size(png), title, text)
            for title, png, text in images
        ],
        "note": note,
        "panel": cell.number,
    }
