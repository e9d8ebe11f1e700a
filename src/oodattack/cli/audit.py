"""`oodattack audit`: which out-of-distribution detectors hold, from the command line."""

import json as jsonlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.terminal import (
    INTERRUPTED,
    UNFINISHED,
    error_console,
    output_console,
    percent,
    plain_warnings,
    printable,
    stages,
)
from oodattack.settings.attack import NORM_NAMES, load_config
from oodattack.settings.audit import AuditSettings

Text = str | None
Texts = list[str] | None
EXAMPLES = r"""[bold]Examples[/bold]

  oodattack audit --encoder python:mymodels:net,weights=w.pth,size=32 \
      --train train/ --test test/ --ood textures/ --start xray.png --out audit

  oodattack audit --encoder torchvision:resnet18 --train train/ --test val/ \
      --start scans/ --detectors KNN,EnergyBased --eps 1,5,10 --out audit

  oodattack audit --config audit.toml --detector mymodule:MyDetector"""
LEGEND = """\
AUROC of attacked starts against x_in (0.5: the detector cannot tell), at the
largest eps. start: before the attack; nat.: mean over the --ood sets; lat.,
inf. (= where the detector reads z), dir.: the latent, the informed and the
direct attack; 95 %: bootstrap interval of the strongest of them on each image;
pass: share of its images below the threshold that accepts 95 % of x_in.
held: at this eps and budget, a stronger attack may come; bent: below 0.9 of
the start's; broken: at or below 0.55, interval included; blind: no better
than chance on the starts before any attack.
"""


def audit(
    encoder: Annotated[
        Text, typer.Option(help="the classifier, as in `oodattack attack`; its last layer must be linear")
    ] = None,
    train: Annotated[
        Text,
        typer.Option(help="in-distribution images to fit the detectors on: one folder a class, or a set with labels"),
    ] = None,
    test: Annotated[Text, typer.Option(help="x_in: in-distribution images that nothing was fitted on")] = None,
    ood: Annotated[Texts, typer.Option(help="a natural OOD set; give it again for more")] = None,
    start: Annotated[
        Texts, typer.Option(help="x'_out: starts as in `oodattack attack`; give it again for more, dealt out in turn")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="directory of the audit; the same command goes on with it")] = None,
    detectors: Annotated[
        Text, typer.Option(help="all | none | names of pytorch-ood's, separated by commas (default: all)")
    ] = None,
    detector: Annotated[Texts, typer.Option(help="your own, as MODULE:FACTORY; give it again for more")] = None,
    attacks: Annotated[Text, typer.Option(help="some of latent,informed,direct (default: all three)")] = None,
    eps: Annotated[
        Text, typer.Option(help="radius of the ball, pixels in [0, 1]: 5, 8/255, or several: 1,5,10 (default: 5)")
    ] = None,
    norm: Annotated[Text, typer.Option(help="l1 | l2 | linf (default: l2)")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient evaluations per try (default: 100)")] = None,
    budget: Annotated[
        Text, typer.Option(help="smaller numbers of steps, for the curve of the latent attack: 10,30")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="so many x_in, evenly spaced over all (default: 200)")] = None,
    ood_limit: Annotated[int | None, typer.Option(help="so many images of each natural set (default: 500)")] = None,
    fit_limit: Annotated[int | None, typer.Option(help="so many images to fit on (default: 10000)")] = None,
    witness: Annotated[
        Texts, typer.Option(help="another encoder, not attacked, that says whether x_out is still OOD; repeatable")
    ] = None,
    layers: Annotated[Text, typer.Option(help="layers of the detectors that read several, joined by +")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of noise and attacks (default: 0)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="samples attacked at once")] = None,
    device: Annotated[Text, typer.Option(help="cpu | cuda | mps (default: the best there is)")] = None,
    data_root: Annotated[Path | None, typer.Option(help="folder of torchvision data sets (default: data)")] = None,
    download: Annotated[bool | None, typer.Option("--download", help="let torchvision fetch data sets")] = None,
    trust: Annotated[bool | None, typer.Option("--trust", help="let model files execute code")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, same names; flags come first")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the results as JSON on standard output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    """Fit OOD detectors, attack what they read and what they say, and tell which of them hold.

    Writes audit.json, results.json, scores.parquet, report.md and pictures. A stopped audit goes on with the same
    command; detectors, radii and OOD sets may be added to a finished one in the same way.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if name not in ("config", "json", "quiet") and value not in (None, [])
    }
    settings = AuditSettings.of({**(load_config(config) if config else {}), **given})
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch …", style="dim")
        from oodattack.pipelines.audit import run_audit
        from oodattack.report.audit_figures import draw_audit
        from oodattack.report.audit_table import write_audit

        try:
            with stages(console) as bar:
                found = run_audit(settings, on_progress=lambda now: bar(now.name, now.done, now.total))
        except KeyboardInterrupt:
            sys.stderr.write(f"stopped; what is finished is in {settings.out}. Give the same command again to go on\n")
            raise typer.Exit(INTERRUPTED) from None
        results = found.read_results()
        written = [write_audit(found), *draw_audit(found, settings.out / "figures")]
    if json:
        sys.stdout.write(jsonlib.dumps(results, indent=2) + "\n")
    elif not quiet:
        _tell(results, settings, written)
    if results["failures"]:
        raise typer.Exit(UNFINISHED)


def _tell(results: Mapping[str, Any], settings: AuditSettings, written: list[Path]) -> None:
    console = output_console()
    console.print(_table(results), LEGEND, soft_wrap=False)
    subject = results["subject"]
    for what, value in (("training", subject["train_accuracy"]), ("test", subject["test_accuracy"])):
        if value is not None:
            console.print(f"accuracy  {percent(value)} of the {what} images")
    for key, found in results["outside"].items():
        nearer = "; ".join(
            f"nearer to the start {percent(judged['nearer_start'])}, flagged {percent(judged['flagged'])} by {name}"
            for name, judged in found["encoders"].items()
        )
        console.print(printable(f"x_out     {key}: L2 {found['distance_l2']:.3g} from the start; {nearer}"))
    skipped = sum(map(len, results["skipped"].values()))
    if skipped:
        console.print(f"skipped   {skipped} images could not be decoded (report.md names them)")
    for absent in results["absent"]:
        console.print(printable(f"left out  {absent['name']}: {absent['reason']}"))
    for what, reason in results["failures"].items():
        console.print(printable(f"failed    {what}: {reason}"))
    console.print(f"audit     {settings.out}/results.json, {settings.out}/scores.parquet")
    for path in written:
        console.print(f"{'report' if path.suffix == '.md' else 'picture':9} {path}")


def _table(results: Mapping[str, Any]) -> Table:
    """What survived comes first; fits 80 columns."""
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
