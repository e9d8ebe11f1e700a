"""`python -m benchmarks.smallest_ball`: the smallest ball in which each method succeeds.

Finds the smallest L2 ball, on a grid of radii 1.1^k, in which the median MAPE of the decoded PNG is below 0.1 %. The
radius is doubled until the attack succeeds, and the last doubling is bisected. Only within this doubling is success
assumed to be monotone in the radius, since some methods do not get closer in a wider ball (the published step grows
with the ball). DDN needs no such search: it minimises the distance of each image at a given MAPE.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.adv_lib_attacks import AVAILABLE, ddn
from benchmarks.attackers import attackers
from benchmarks.inputs import Case, latents, load_case, start_program
from benchmarks.measure import measure
from oodattack.core.ball import distance
from oodattack.core.errors import InputError, did_you_mean
from oodattack.core.metrics import mape
from oodattack.report.style import SMALL_MAPE
from oodattack.settings.attack import AttackSettings

RADIUS_FACTOR = 1.1  # between neighbouring radii
STEPS_PER_DOUBLING = 7  # 1.1^7 = 1.95


def first_success(succeeds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Find the smallest k in [low, high] that succeeds, assuming monotonicity within one doubling; None if none does.

    >>> first_success(lambda k: k >= 11, 0, 30), first_success(lambda k: False, 0, 30)
    (11, None)
    """
    failed, k = low - 1, low
    while not succeeds(k):
        if k == high:
            return None
        failed, k = k, min(k + STEPS_PER_DOUBLING, high)
    while k - failed > 1:
        middle = (failed + k) // 2
        if succeeds(middle):
            k = middle
        else:
            failed = middle
    return k


def median_of_png(case: Case, label: str, steps: int, batch_size: int) -> float:
    """Median MAPE of the decoded PNG in per cent, with the better finish and the best of the method's step sizes."""
    (attacker,) = (one for one in attackers(case) if one.label == label)
    medians = []
    for step_size in attacker.step_sizes:
        for searched in (True, False):
            runs = [
                measure(case, attacker, rows, steps, step_size, searched=searched) for rows in case.batches(batch_size)
            ]
            medians.append(float(100 * np.median([value for run in runs for value in run.png_mape])))
    return min(medians)


def nearest_by_ddn(case: Case, tolerance: float, steps: int, batch_size: int) -> float:
    """Median distance of the nearest image that DDN finds within a MAPE (a fraction); infinite where it finds none."""
    found = []
    for rows in case.batches(batch_size):
        start, target = case.start[rows], case.target[rows]
        images = ddn(case.prepared, start, target, tolerance=tolerance, steps=steps)
        reached = mape(latents(case.encoder, images), target) < tolerance
        found.append(distance(images, start, 2).where(reached, math.inf))
    return float(torch.cat(found).median())


def main(
    encoder: Annotated[str, typer.Option(help="as for `oodattack attack`")],
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    method: Annotated[
        list[str], typer.Option(help="paper | paper-tuned | adam-cosine | apgd | fast; may be repeated")
    ] = [  # noqa: B006
        "paper",
        "fast",
    ],
    steps: Annotated[int, typer.Option(help="gradient evaluations")] = 300,
    limit: Annotated[int, typer.Option(help="number of images to attack, evenly spaced")] = 64,
    batch_size: Annotated[int, typer.Option(help="number of images attacked at once")] = 16,
    lowest: Annotated[float, typer.Option(help="smallest radius to try")] = 0.1,
    highest: Annotated[
        float, typer.Option(help="largest radius to try, up to rounding to the grid of 10 % steps")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="random seed for noise and random starts")] = 0,
) -> None:
    """Find the smallest L2 ball in which the median MAPE of the decoded PNG is below 0.1 %."""
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"expected 0 < --lowest < --highest, both finite, got {lowest:g} and {highest:g}")
    given = {"encoder": encoder, "images": images, "start": start, "out": ".", "eps": lowest, "seed": seed}
    case = load_case(AttackSettings.of({**given, "limit": limit, "batch_size": batch_size, "steps": steps}))
    labels = [attacker.label for attacker in attackers(case)]
    for label in method:
        if label not in labels:
            hint = did_you_mean(label, labels)
            raise InputError(f"expected --method as one of {', '.join(labels)}, got {label!r}{hint}")
    low, high = (round(math.log(radius, RADIUS_FACTOR)) for radius in (lowest, highest))
    if AVAILABLE:
        nearest = nearest_by_ddn(case, SMALL_MAPE / 100, steps, batch_size)
        typer.echo(f"ddn, median of the distances that it minimises: {nearest:.3g}")
    smallest: dict[str, int | None] = {}
    for label in method:

        def succeeds(k: int, label: str = label) -> bool:
            median = median_of_png(replace(case, eps=RADIUS_FACTOR**k), label, steps, batch_size)
            typer.echo(f"{label}: eps {RADIUS_FACTOR**k:.3g}, median {median:.3g} %")
            return median < SMALL_MAPE

        smallest[label] = first_success(succeeds, low, high)
    conditions = f"decoded PNG, {steps} steps, {len(case.start)} images"
    typer.echo(f"\nSmallest L2 ball with a median below {SMALL_MAPE:g} % ({conditions})")
    for label, k in smallest.items():
        typer.echo(f"{label}: " + (f"none up to {RADIUS_FACTOR**high:.3g}" if k is None else f"{RADIUS_FACTOR**k:.3g}"))


if __name__ == "__main__":
    start_program(main)
