"""`oodattack audit`: measure which out-of-distribution detectors withstand attacks."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.options import Json, Quiet, with_settings
from oodattack.cli.terminal import (
    UNFINISHED,
    UNMET,
    error_console,
    output_console,
    percent,
    plain_warnings,
    print_json,
    printable,
    resumable,
    shell_command,
    stages,
)
from oodattack.core.errors import InputError
from oodattack.settings.audit import AuditSettings
from oodattack.settings.ball import NORM_NAMES

if TYPE_CHECKING:
    from oodattack.auditing.required import Outcome

EXAMPLES = r"""[bold]Examples[/bold]

  oodattack audit --encoder python:mymodels:net,weights=w.pth,size=32 \
      --train train/ --test test/ --ood textures/ --start xray.png --out audit

  oodattack audit --encoder torchvision:resnet18 --train train/ --test val/ \
      --start scans/ --detectors KNN,EnergyBased --eps 1,5,10 --out audit

  oodattack audit --config audit.toml --detector mymodule:MyDetector

  oodattack audit --config audit.toml --require 'auroc>=0.7@linf:2/255' \
      --require 'KNN:pass[mnist]<=0.2@linf:2/255' --junit junit.xml"""
LEGEND = """\
For each detector, the set of starts on which it did worst, of those on which
it worked before the attack. AUROC against held-out in-distribution images
(0.5: chance; 0: attacked images look more in-distribution than all others),
before and under the strongest attack on each image within the largest eps;
95 %: its interval; pass: share of images that pass at the threshold that
accepts 95 % of in-distribution images, before and after; falls: the smallest
eps at which the detector is broken.

broken: AUROC at or below 0.55, interval included; bent: below 0.9 times that
before; held: neither, at this eps and budget: a stronger attack may exist;
blind: AUROC before the attack not above 0.55, interval included.
"""


JUnit = Annotated[
    Path | None,
    typer.Option("--junit", help="JUnit XML file: a test case for each --require, detector and set of starts"),
]


@with_settings(AuditSettings)
def audit(settings: AuditSettings, *, junit: JUnit = None, json: Json = False, quiet: Quiet = False) -> None:
    """Fit OOD detectors, attack what they read and the scores they return, and report which of them hold up.

    Writes audit.json, results.json, scores.parquet, report.md, figures and a page.
    To resume an interrupted audit, repeat the command.
    To add detectors, radii or OOD sets to a finished audit, repeat the command with them.
    """
    if junit is not None and not settings.require:
        raise InputError(f"expected --require with --junit {junit}, got none; there is nothing to write without it")
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch …", style="dim")
        from oodattack.auditing.required import judge_requirements
        from oodattack.pipelines.audit import run_audit
        from oodattack.report.audit_figures import draw_audit
        from oodattack.report.audit_table import write_audit
        from oodattack.report.junit import write_junit
        from oodattack.report.page import write_page

        with resumable(settings.out), stages(console) as bar:
            found = run_audit(settings, on_progress=lambda now: bar(now.name, now.done, now.total))
        results = found.read_results()
        written = [write_audit(found), *draw_audit(found, settings.out / "figures")]
        outcomes = judge_requirements(results)
        if junit is not None:
            write_junit(junit, outcomes)
        page = write_page(settings.out)
    if json:
        print_json(results)
    elif not quiet:
        _print_results(results, settings, written, page)
    if not _print_outcomes(outcomes, quiet=quiet):
        raise typer.Exit(UNMET)
    if results["failures"]:
        raise typer.Exit(UNFINISHED)


def _print_results(results: Mapping[str, Any], settings: AuditSettings, written: list[Path], page: Path) -> None:
    console = output_console()
    console.print(_table(results), LEGEND, soft_wrap=False)
    subject = results["subject"]
    for name, accuracy in (("training", subject["train_accuracy"]), ("held-out", subject["test_accuracy"])):
        if accuracy is not None:
            console.print(f"accuracy  {percent(accuracy)} of the {name} images")
    for row in results["detectors"]:
        for flag in row["flags"]:
            console.print(printable(f"too weak? {row['name']}, {flag}"))
    for key, found in results["outside"].items():
        nearer = "; ".join(
            f"{percent(judged['nearer_start'])} nearer to the start, {percent(judged['flagged'])} flagged by {name}"
            for name, judged in found["encoders"].items()
        )
        console.print(printable(f"x_out     {key}: L2 {found['distance_l2']:.3g} from the start; {nearer}"))
    skipped = sum(map(len, results["skipped"].values()))
    if skipped:
        console.print(f"skipped   {skipped} images could not be decoded (report.md lists them)")
    for absent in results["absent"]:
        console.print(printable(f"left out  {absent['name']}: {absent['reason']}"))
    for attack, reason in results["failures"].items():
        console.print(printable(f"failed    {attack}: {reason}"))
    console.print(f"audit     {settings.out}/results.json, {settings.out}/scores.parquet")
    for path in written:
        console.print(f"{'report' if path.suffix == '.md' else 'figure':9} {path}")
    console.print(f"page      {page} ({shell_command('open', settings.out)})")


def _print_outcomes(outcomes: "Sequence[Outcome]", *, quiet: bool) -> bool:
    """Print on standard error what is required and not met, and return whether all is met."""
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("met", "failed", "skipped")}
    for outcome in outcomes:
        if outcome.status == "failed" or (outcome.status == "skipped" and not quiet):
            found = f"{outcome.requirement.text}  {outcome.detector} from {outcome.starts}: {outcome.text}"
            sys.stderr.write(f"{outcome.status:9} {printable(found)}\n")
    if outcomes and not quiet:
        sys.stderr.write(f"required  {', '.join(f'{count} {status}' for status, count in counts.items())}\n")
    return counts["failed"] == 0


def _table(results: Mapping[str, Any]) -> Table:
    """A table that fits into 80 columns; detectors that withstood most come first."""
    from oodattack.auditing.verdict import worst_set
    from oodattack.report.audit_table import falls

    settings = results["settings"]
    largest = max(map(float, settings["eps"]))
    table = Table(
        title=f"{NORM_NAMES[settings['norm']]} ball, eps {largest:.4g}, {settings['steps']} steps,"
        f" {results['sets']['targets']} attacks from each of {len(results['detectors'][0]['sets'])} sets",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    for heading in ("detector", "verdict", "worst from", "AUROC", "95 %", "pass %", "falls"):
        table.add_column(
            heading,
            justify="left" if heading in ("detector", "verdict", "worst from") else "right",
            no_wrap=heading != "verdict",
            overflow="ellipsis",
            max_width={"worst from": 10, "verdict": 10}.get(heading),
        )
    for row in results["detectors"]:
        name = worst_set(row)
        found = row["sets"][name]
        before, after = found["before"], found["radii"][-1]
        passed = "→".join(f"{100 * at['fpr95_in_positive']['value']:.0f}" for at in (before, after))
        table.add_row(
            printable(row["name"]),
            row["verdict"],
            printable(name),
            "→".join(f"{at['auroc']['value']:.2f}" for at in (before, after)),
            f"{after['auroc']['low']:.2f}–{after['auroc']['high']:.2f}",
            passed,
            "–" if found["falls_at"] is None else falls(found),
        )
    return table
