"""`python -m benchmarks.frozen`: encoders, starts, balls and budgets on which no constant of `fast` was chosen.

The constants were chosen mostly on CIFAR-10 ResNet-20 and EfficientNet-Lite0, from an x-ray and from uniform noise, in
round balls and with round budgets. Here every setting differs in its start, ball and budget, and most in their encoder
(docs/method.md mentions EfficientNet-Lite0 and ResNet-18 with random weights). Each is run with three disjoint sets of
images, starts and seeds. Adam's step is tuned on the first batch of the first set. Families have equal weight in the
mean. CIFAR-10 ResNets, on which `fast` does best, are kept apart from the others, as are balls that are too small for
their targets, in which all methods end at about the same error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.attackers import Attacker, attackers
from benchmarks.compare import compare
from benchmarks.inputs import Case, load_case, start_program
from benchmarks.ratio import equal_weights, log_ratios
from benchmarks.table import Row, Side, best_of
from oodattack.core.errors import InputError, did_you_mean
from oodattack.settings.attack import AttackSettings
from oodattack.settings.ball import NORM_NAMES
from oodattack.storage.files import write_text

SEEDS = 3
COMPARED = ("adam-cosine", "apgd", "fast")
N = "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"


@dataclass(frozen=True)
class Setting:
    """One attack problem.

    Attributes:
        title: its encoder.
        group: the settings with which it is averaged.
        encoder: the encoder's string, in which ``{data}`` is the folder of weights and images.
        images: x_in, a folder in ``{data}``.
        start: x'_out, a file or folder in ``{data}``.
        norm: l2 or linf.
        eps: radius of the ball.
        steps: the budget.
        limit: images of each seed.
        batch_size: number of images attacked at once.
    """

    title: str
    group: str
    encoder: str
    images: str
    start: str
    norm: str
    eps: str
    steps: int
    limit: int = 22
    batch_size: int = 22


CIFAR, OTHER, UNREACHED = "CIFAR-10 ResNets", "other families", "targets out of reach"
REACH = 5.0  # per cent: if no method has a lower median, the ball is too small for most of the targets
SETTINGS = {
    "provable": Setting(
        "provably robust CIFAR-10 network (Wong et al. 2018)", OTHER,
        "python:benchmarks.networks:provable,size=32,weights={data}/weights/provable/cifar10_linf_8_255.safetensors,"
        "mean=0.485/0.456/0.406,std=0.225/0.225/0.225",
        "cifar10_png/test", "ood/fashion_mnist", "l2", "0.83", 73,
    ),
    "acet": Setting(
        "pre-activation CIFAR-10 ResNet (Hein et al. 2019)", CIFAR,
        "python:benchmarks.networks:ResNetSmall,size=32,weights={data}/weights/acet/cifar10_plain.safetensors",
        "cifar10_png/test", "ood/notmnist", "linf", "3/255", 37,
    ),
    "provable-wide": Setting(
        "provably robust CIFAR-10 network (Wong et al. 2018)", OTHER,
        "python:benchmarks.networks:provable,size=32,weights={data}/weights/provable/cifar10_linf_8_255.safetensors,"
        "mean=0.485/0.456/0.406,std=0.225/0.225/0.225",
        "cifar10_png/test", "ood/fashion_mnist", "l2", "4.7", 73,
    ),
    "acet-wide": Setting(
        "pre-activation CIFAR-10 ResNet (Hein et al. 2019)", CIFAR,
        "python:benchmarks.networks:ResNetSmall,size=32,weights={data}/weights/acet/cifar10_plain.safetensors",
        "cifar10_png/test", "ood/notmnist", "l2", "5.7", 73,
    ),
    "resnet32": Setting(
        "CIFAR-10 ResNet-32", CIFAR,
        "python:benchmarks.networks:resnet32,weights={data}/weights/cifar10_resnet32-d509ac18.th," + N,
        "cifar10_png/test", "ood/textures_dtd32", "l2", "3.7", 37,
    ),
    "convnext": Setting(
        "ConvNeXt-Atto 64x64, random weights", OTHER, "timm:convnext_atto,weights=none,size=64",
        "imagenet_subset", "ood/textures_dtd32", "linf", "3/255", 37, 8, 8,
    ),
    "resnet18": Setting(
        "ResNet-18 64x64, random weights", OTHER, "torchvision:resnet18,weights=none,size=64",
        "imagenet_subset", "starts/paper_lung_ct.jpg", "l2", "5.3", 37, 8, 8,
    ),
    "embedded": Setting(
        "EfficientNet-Lite0 224x224", OTHER, "embedded",
        "imagenet_subset", "starts/paper_lung_ct.jpg", "l2", "11", 23, 4, 4,
    ),
    "vit": Setting(
        "ViT-Tiny 64x64, random weights", OTHER, "python:benchmarks.networks:vit_tiny",
        "imagenet_subset", "starts/fundus", "l2", "7.9", 23, 8, 8,
    ),
    "densenet121": Setting(
        "DenseNet-121 64x64, random weights", OTHER, "torchvision:densenet121,weights=none,size=64",
        "imagenet_subset", "celeba64/faces", "l2", "6.1", 23, 8, 8,
    ),
}  # fmt: skip


def share(case: Case, seed: int) -> Case:
    """The images, starts and targets of one of the seeds: every third."""
    rows = slice(seed, None, SEEDS)
    header = {**case.header, "images": case.header["images"][rows], "seed": seed}
    return replace(
        case,
        x_in=case.x_in[rows],
        start=case.start[rows],
        target=case.target[rows],
        seeds=tuple(1000 * (seed + 1) + place for place in range(len(case.seeds[rows]))),
        header=header,
    )


def run(setting: Setting, data: Path, out: Path) -> list[list[Row]]:
    """Compare the methods on one setting: the rows of each seed, all at the same budget."""
    given = {"encoder": setting.encoder.format(data=data), "images": str(data / setting.images), "out": out, "seed": 0}
    given |= {"start": str(data / setting.start), "norm": setting.norm, "eps": setting.eps}
    case = load_case(AttackSettings.of({**given, "limit": SEEDS * setting.limit, "batch_size": setting.batch_size}))
    methods: list[Attacker] = [attacker for attacker in attackers(case) if attacker.label in COMPARED]
    found: list[list[Row]] = []
    for seed in range(SEEDS):
        where = out / str(seed)
        found.append(compare(share(case, seed), methods, [setting.steps], where, batch_size=setting.batch_size))
        methods = [replace(m, step_sizes=(row.step_size,)) for m, row in zip(methods, found[0], strict=True)]
    return found


def table(found: dict[str, list[list[Row]]]) -> str:
    """Tabulate the settings that have been run, and the mean of each group with equal weights."""
    lines = [
        "| encoder | start | ball | budget | images | best of the others, float / PNG | their medians | `fast` "
        "| times closer, float | times closer, PNG | PNG, by seed |",
        "|" + "---|" * 11,
    ]
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {CIFAR: [], OTHER: [], UNREACHED: []}
    for name, seeds in found.items():
        setting = SETTINGS[name]
        whole = [_joined([rows[i] for rows in seeds]) for i in range(len(seeds[0]))]
        fast = whole[-1]
        best = best_of(whole[:-1])
        logs = (
            log_ratios(best[0].float.percent, fast.float.percent),
            log_ratios(best[1].saved.percent, fast.saved.percent),
        )
        reached = best[0].float.median < REACH  # whatever `fast` does
        groups[setting.group if reached else UNREACHED].append(logs)
        cells = [
            setting.title,
            Path(setting.start).stem,
            f"{NORM_NAMES[setting.norm]} {setting.eps}",
            str(setting.steps),
            str(len(logs[0])),
            " / ".join(f"`{row.label}`" for row in best),
            f"{best[0].float.median:.3g} / {best[1].saved.median:.3g}",
            f"{fast.float.median:.3g} / {fast.saved.median:.3g}",
            *(str(equal_weights([each])) for each in logs),
            ", ".join(f"{np.exp(part.mean()):.3g}" for part in np.split(logs[1], SEEDS)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| geometric mean, equal weights | float | PNG |", "|---|---|---|"]
    for group, parts in groups.items():
        if parts:
            exact, saved = (equal_weights([logs[side] for logs in parts]) for side in (0, 1))
            lines.append(f"| {group} ({len(parts)}) | {exact} | {saved} |")
    return "\n".join(lines) + "\n"


def _joined(rows: Sequence[Row]) -> Row:
    """The results of one method with several seeds, as one row."""
    sides = [_all([getattr(row, kind) for row in rows]) for kind in ("float", "rounded", "searched")]
    return Row(rows[0].label, rows[0].steps, rows[0].step_size, rows[0].at_the_edge, *sides)


def _all(sides: Sequence[Side]) -> Side:
    return Side(
        np.concatenate([side.percent for side in sides]),
        np.concatenate([side.distance for side in sides]),
        float(np.mean([side.evaluations for side in sides])),
        float(np.mean([side.seconds for side in sides])),
    )


def main(
    data: Annotated[Path, typer.Option(help="folder of images and weights")],
    out: Annotated[Path, typer.Option(help="results folder; the same command resumes an interrupted comparison")],
    setting: Annotated[list[str] | None, typer.Option(help="setting to run; may be repeated (default: all)")] = None,
) -> None:
    """Compare `fast` with tuned Adam and APGD where nothing was tuned for it."""
    found: dict[str, list[list[Row]]] = {}
    for name in setting or SETTINGS:
        if name not in SETTINGS:
            hint = did_you_mean(name, SETTINGS)
            raise InputError(f"expected --setting as one of {', '.join(SETTINGS)}, got {name!r}{hint}")
        found[name] = run(SETTINGS[name], data, out / name)
        write_text(out / "frozen.md", table(found))
    typer.echo(table(found))


if __name__ == "__main__":
    start_program(main)
