"""`oodattack audit`: measure which out-of-distribution detectors withstand attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.options import Json, Quiet, with_settings
from oodattack.cli.terminal import (
    UNFINISHED,
    error_console,
    output_console,
    percent,
    plain_warnings,
    print_json,
    printable,
    resumable,
    stages,
)
from oodattack.settings.audit import AuditSettings
from oodattack.settings.ball import NORM_NAMES

EXAMPLES = r"""[bold]Examples[/bold]

  oodattack audit --encoder python:mymodels:net,weights=w.pth,size=32 \
      --train train/ --test test/ --ood textures/ --start xray.png --out audit

  oodattack audit --encoder torchvision:resnet18 --train train/ --test val/ \
      --start scans/ --detectors KNN,EnergyBased --eps 1,5,10 --out audit

  oodattack audit --config audit.toml --detector mymodule:MyDetector"""
LEGEND = """\
AUROC of attacked starts against x_in (0.5: the detector cannot tell them
apart), at the largest eps. start: before the attack; nat.: mean over the --ood
sets; lat., inf. (=: same as lat., as the detector reads z), dir.: the latent,
the informed and the direct attack; 95 %: bootstrap interval for the strongest
attack on each image; pass: share of those images that pass at the threshold
that accepts 95 % of x_in.
held: at this eps and budget; a stronger attack may exist; bent: below 0.9
times the AUROC before the attack; broken: at or below 0.55, interval included;
blind: no better than chance on the starts before any attack.
"""


@with_settings(AuditSettings)
def audit(settings: AuditSettings, *, json: Json = False, quiet: Quiet = False) -> None:
    """Fit OOD detectors, attack what they read and the scores they return, and report which of them hold up.

    Writes audit.json, results.json, scores.parquet, report.md and figures.
    To resume an interrupted audit, repeat the command.
    To add detectors, radii or OOD sets to a finished audit, repeat the command with them.
    """
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch …", style="dim")
        from oodattack.pipelines.audit import run_audit
        from oodattack.report.audit_figures import draw_audit
        from oodattack.report.audit_table import write_audit

        with resumable(settings.out), stages(console) as bar:
            found = run_audit(settings, on_progress=lambda now: bar(now.name, now.done, now.total))
        results = found.read_results()
        written = [write_audit(found), *draw_audit(found, settings.out / "figures")]
    if json:
        print_json(results)
    elif not quiet:
        _print_results(results, settings, written)
    if results["failures"]:
        raise typer.Exit(UNFINISHED)


def _print_results(results: Mapping[str, Any], settings: AuditSettings, written: list[Path]) -> None:
    console = output_console()
    console.print(_table(results), LEGEND, soft_wrap=False)
    subject = results["subject"]
    for name, accuracy in (("training", subject["train_accuracy"]), ("test", subject["test_accuracy"])):
        if accuracy is not None:
            console.print(f"accuracy  {percent(accuracy)} of the {name} images")
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


def _table(results: Mapping[str, Any]) -> Table:
    """A table that fits into 80 columns; detectors that held come first."""
    from oodattack.report.audit_table import at, made

    settings = results["settings"]
    kinds, largest = made(settings), max(map(float, settings["eps"]))
    table = Table(
        title=f"{NORM_NAMES[settings['norm']]} ball, eps {largest:.4g},"
        f" {settings['steps']} steps, {results['sets']['in']} x_in",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ["detector", "verdict", "start", "nat.", *(f"{kind[:3]}." for kind in kinds), "95 %", "pass"]:
        table.add_column(heading, justify="left" if heading in ("detector", "verdict") else "right", no_wrap=True)
    for row in results["detectors"]:
        worst, clean = row["strongest"], row["clean"]
        same = {"informed": "="} if row["reads"] == "z" else {}
        found = {m["kind"]: f"{m['auroc']:.2f}" for m in at(row, largest, settings["steps"])}
        natural = [measure["auroc"] for name, measure in clean.items() if name != "starts"]
        table.add_row(
            printable(row["name"]),
            row["verdict"],
            f"{clean['starts']['auroc']:.2f}",
            f"{sum(natural) / len(natural):.2f}" if natural else "–",
            *(found.get(kind, same.get(kind, "–")) for kind in kinds),
            f"{worst['auroc_low']:.2f}–{worst['auroc_high']:.2f}",
            f"{100 * worst['fpr95_in_positive']:.0f} %",
        )
    return table
