"""`python -m benchmarks.families`: the same comparison on other families of encoders, including random weights.

A method developed on one network may fail on another. The table has one line per family, at one budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.attackers import attackers
from benchmarks.compare import compare
from benchmarks.inputs import load_case, start_program
from benchmarks.table import Row, best_of, closer
from oodattack.cli.photographs import copy_photographs
from oodattack.core.errors import InputError, did_you_mean
from oodattack.settings.attack import AttackSettings
from oodattack.storage.files import write_text

COMPARED = ("paper-tuned", "adam-cosine", "apgd", "fast")
CIFAR = "weights={data}/weights/%s,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"


@dataclass(frozen=True)
class Family:
    """An encoder, and the radius of the L2 ball: 10 at 32x32, 20 at larger sizes.

    Attributes:
        title: its name in the table.
        encoder: the encoder's string, in which ``{data}`` is the folder of weights and ``{out}`` that of the results.
        eps: radius of the ball.
    """

    title: str
    encoder: str
    eps: float


FAMILIES = {
    "resnet20": Family(
        "CIFAR-10 ResNet-20", "python:tests.factories:resnet20," + CIFAR % "cifar10_resnet20-12fca82f.th", 10
    ),
    "resnet32": Family(
        "CIFAR-10 ResNet-32", "python:benchmarks.networks:resnet32," + CIFAR % "cifar10_resnet32-d509ac18.th", 10
    ),
    "glow": Family("Glow, NLL alone (K = 1)", "python:benchmarks.glow:glow,weights={out}/glow.pt,layer=output", 10),
    "vit": Family("ViT-Tiny 64x64, random weights", "python:benchmarks.networks:vit_tiny", 20),
    "resnet18": Family("ResNet-18 64x64, random weights", "torchvision:resnet18,weights=none,size=64", 20),
    "densenet121": Family("DenseNet-121 64x64, random weights", "torchvision:densenet121,weights=none,size=64", 20),
    "embedded": Family("EfficientNet-Lite0 224x224", "embedded", 20),
}


def table(rows: dict[str, Sequence[Row]]) -> str:
    """Tabulate the median MAPE of every family and method in per cent, and how much closer `fast` is than the best."""
    labels = list(dict.fromkeys(row.label for found in rows.values() for row in found))
    heads = ["encoder", *(f"`{label}`" for label in labels), "best of the others", "`fast` is times closer"]
    lines = [
        "Median MAPE in per cent: float / PNG, rounded / PNG, searched. Then the best of the others, and the geometric",
        "mean of the paired ratios with its 95 % interval: float / PNG, the better of the two.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    for title, found in rows.items():
        by_label = {row.label: row for row in found}
        cells = [_medians(by_label[label]) if label in by_label else "" for label in labels]
        fast = by_label["fast"]
        best = best_of([row for row in found if row is not fast])
        cells += [" / ".join(f"`{row.label}`" for row in best), " / ".join(closer(*best, fast))]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _medians(row: Row) -> str:
    return " / ".join(f"{each.median:.3g}" for each in (row.float, row.rounded, row.searched))


def main(
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    out: Annotated[Path, typer.Option(help="results folder; the same command resumes an interrupted comparison")],
    data: Annotated[Path | None, typer.Option(help="folder whose weights/ contains the CIFAR-10 ResNets")] = None,
    family: Annotated[list[str] | None, typer.Option(help="family to run; may be repeated (default: all)")] = None,
    steps: Annotated[int, typer.Option(help="gradient evaluations")] = 100,
    limit: Annotated[int, typer.Option(help="number of images to attack, evenly spaced")] = 16,
    batch_size: Annotated[int, typer.Option(help="number of images attacked at once")] = 16,
    seed: Annotated[int, typer.Option(help="random seed for noise and random starts")] = 0,
) -> None:
    """Compare tuned `paper`, tuned Adam, APGD and `fast` on seven families of encoders."""
    chosen = family or [name for name in FAMILIES if data or "{data}" not in FAMILIES[name].encoder]
    for name in chosen:
        if name not in FAMILIES:
            hint = did_you_mean(name, FAMILIES)
            raise InputError(f"expected --family as one of {', '.join(FAMILIES)}, got {name!r}{hint}")
        if data is None and "{data}" in FAMILIES[name].encoder:
            raise InputError(f"expected --data, a folder whose weights/ contains the weights of {name}, got none")
    rows: dict[str, Sequence[Row]] = {}
    for name in chosen:
        if name == "glow":
            _make_glow(out)
        encoder = FAMILIES[name].encoder.format(data=data, out=out)
        given = {"encoder": encoder, "images": images, "start": start, "out": out, "seed": seed, "steps": steps}
        given |= {"eps": FAMILIES[name].eps, "limit": limit, "batch_size": batch_size}
        case = load_case(AttackSettings.of(given))
        methods = [attacker for attacker in attackers(case) if attacker.label in COMPARED]
        rows[FAMILIES[name].title] = compare(case, methods, [steps], out / name, batch_size=batch_size)
        write_text(out / "families.md", table(rows))
    typer.echo(table(rows))


def _make_glow(out: Path) -> None:
    """Train the Glow, unless it exists, on patches of the photographs bundled with packages."""
    from benchmarks.glow import train_glow

    if not (out / "glow.pt").exists():
        typer.echo("training a small Glow, which takes about a minute", err=True)
        photographs, _ = copy_photographs(out / "photographs")
        bits = train_glow(photographs, out / "glow.pt")
        typer.echo(f"{bits:.2f} bits per dimension", err=True)


if __name__ == "__main__":
    start_program(main)
