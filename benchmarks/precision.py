"""`python -m benchmarks.precision`: what bfloat16 saves in time, and what it costs in accuracy.

Runs the attack in float32, with gradients in bfloat16, and additionally with a bfloat16 twin for samples that are far
from their target. The three alternate batch by batch. All results are measured by the encoder as loaded.
"""

import time
from typing import Annotated

import torch
import typer

from benchmarks.counter import Counter
from benchmarks.inputs import latents, load_case, start_program
from oodattack import attack
from oodattack.core.metrics import mape
from oodattack.engines.memory import keep_freed_memory
from oodattack.settings.attack import AttackSettings
from oodattack.speed import prepare

KINDS = {
    "32 bits": {"half": False, "rough": False},
    "gradients in bfloat16": {"half": True, "rough": False},
    "and a twin": {"half": True, "rough": True},
}


def main(
    encoder: Annotated[str, typer.Option(help="f, as for `oodattack attack`")],
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    eps: Annotated[float, typer.Option(help="radius of the L2 ball")],
    steps: Annotated[int, typer.Option(help="gradient evaluations")] = 100,
    limit: Annotated[int, typer.Option(help="number of images to attack, evenly spaced")] = 32,
    batch_size: Annotated[int, typer.Option(help="number of images attacked at once")] = 8,
    seed: Annotated[int, typer.Option(help="random seed for noise")] = 0,
) -> None:
    """Compare `fast` in three precisions, without the 8-bit grid."""
    keep_freed_memory()
    given = {"encoder": encoder, "images": images, "start": start, "eps": eps, "limit": limit}
    given |= {"batch_size": batch_size, "seed": seed, "out": "unused"}
    case = load_case(AttackSettings.of(given))
    functions = {kind: prepare(case.encoder, **options) for kind, options in KINDS.items()}
    seconds = dict.fromkeys(KINDS, 0.0)
    found: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    evaluations, through_twin = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for f in functions.values():  # warm up kernels, memory and imports
        attack(f, case.start[:batch_size], case.target[:batch_size], eps=eps, steps=3, check=False)
    for rows in case.batches(batch_size):
        for kind, f in functions.items():
            counter = Counter(f)
            started = time.perf_counter()
            result = attack(counter, case.start[rows], case.target[rows], eps=eps, steps=steps, check=False)
            seconds[kind] += time.perf_counter() - started
            found[kind].append(mape(latents(case.encoder, result.image), case.target[rows]).cpu())
            evaluations[kind] += counter.backwards
            through_twin[kind] += counter.through_twin
    typer.echo(
        "| precision | time | seconds per image | evaluations through the twin | MAPE, median | geometric mean |"
    )
    typer.echo("|---|---|---|---|---|---|")
    for kind in KINDS:
        errors = 100 * torch.cat(found[kind])
        median, mean = errors.quantile(0.5), errors.log().mean().exp()
        typer.echo(
            f"| {kind} | {seconds[kind] / seconds['32 bits']:.2f} | {seconds[kind] / len(errors):.2f} "
            f"| {through_twin[kind] / evaluations[kind]:.0%} | {median:.3g} | {mean:.3g} |"
        )


if __name__ == "__main__":
    start_program(main)
