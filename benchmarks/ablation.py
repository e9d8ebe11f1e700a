"""`python -m benchmarks.ablation`: what each part of `fast` is worth.

Every part is taken out alone, all else as it is, and the same images are attacked; an image is compared with itself.
All figures are by the encoder as it was loaded.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.compare import parse_budgets
from benchmarks.inputs import Case, latents, load_case, start_program
from oodattack import attack
from oodattack.core.directions import steepest
from oodattack.core.errors import InputError
from oodattack.core.methods import Fast, Method
from oodattack.core.methods.fast.nadam import BETAS, CosineNadam
from oodattack.core.metrics import mape
from oodattack.engines.memory import keep_freed_memory
from oodattack.settings.attack import AttackSettings

ENDLESS = 10**9  # steps of a schedule that has not begun to fall when the run is over
LEAST = 1e-9  # MAPE; what is less is rounding, and zero has no ratio


class _Unwhitened(Fast):
    def weigh(self, x: Tensor, error: Tensor, n: int) -> Tensor:  # noqa: ARG002 -- a verb of `Method`
        return error


class _Hard(Fast):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.kinks = None


class _Uncut(Fast):
    def cut(self, step: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones_like(self.linear_loss)


class _Forgetful(Fast):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.nadam = CosineNadam(self.step_size, self.steps, betas=(0.0, BETAS[1]))


class _Steady(Fast):
    def __post_init__(self) -> None:
        super().__post_init__()
        # The same path length, up to 100 steps: there the schedule is a half cosine, whose mean is 1/2.
        self.nadam = CosineNadam(self.step_size / 2, ENDLESS)


class _Outward(Fast):
    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        return steepest(gradient, 2)


class _Random(Fast):
    def start(self) -> Tensor:
        return self.clip(self.draw())


class _Last(Fast):
    keeps_best = False


class _Rounded(Fast):
    @classmethod
    def default_grid_steps(cls, steps: int) -> int:  # noqa: ARG003
        return 0


PARTS: dict[str, type[Fast]] = {
    "nothing": Fast,
    "whitened errors": _Unwhitened,
    "softened kinks": _Hard,
    "the cut at Polyak's length": _Uncut,
    "momentum": _Forgetful,
    "the schedule": _Steady,
    "steps along the ball": _Outward,
    "the start (a random point instead)": _Random,
    "the best image (the last instead)": _Last,
    "the search on the grid": _Rounded,
}
"""`fast` without each of its parts, by the part that is missing."""


@dataclass(frozen=True)
class Found:
    """What a method left: per image.

    Attributes:
        exact: (B,) MAPE of the image in floating point.
        saved: (B,) MAPE of the image on the 8-bit grid.
        distance: (B,) of the image on the grid, in the norm of the ball.
    """

    exact: Tensor
    saved: Tensor
    distance: Tensor


def measure(case: Case, method: type[Method], steps: int, batch_size: int) -> Found:
    """Attack all images of a case; the search on the grid comes on top of the steps."""
    parts = []
    for rows in case.batches(batch_size):
        result = attack(
            case.prepared,
            case.start[rows],
            case.target[rows],
            eps=case.eps,
            norm=case.norm,
            steps=steps,
            method=method,
            seed=case.seeds[rows],
            pixels=256,
            parts=case.encoder.parts,
            check=False,
        )
        errors = [mape(latents(case.encoder, x), case.target[rows]) for x in (result.float_image, result.image)]
        parts.append((*errors, result.distance))
    return Found(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def times_as_far(errors: Tensor, reference: Tensor) -> str:
    """The geometric mean of the errors' ratios, image by image, and its 95 % interval.

    >>> times_as_far(torch.tensor([0.02, 0.04]), torch.tensor([0.01, 0.02]))
    '2 (2–2)'
    """
    logs = (errors.clamp_min(LEAST) / reference.clamp_min(LEAST)).double().log()
    margin = 1.96 * logs.std() / len(logs) ** 0.5
    middle, low, high = (float(value.exp()) for value in (logs.mean(), logs.mean() - margin, logs.mean() + margin))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def main(
    encoder: Annotated[str, typer.Option(help="f, as for `oodattack attack`")],
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    eps: Annotated[str, typer.Option(help="radius of the ball, like 10 or 16/255")],
    norm: Annotated[str, typer.Option(help="l1, l2 or linf")] = "l2",
    steps: Annotated[str, typer.Option(help="budgets, each a run of its own")] = "20,50,100",
    limit: Annotated[int, typer.Option(help="so many images, evenly spaced over all")] = 32,
    batch_size: Annotated[int, typer.Option(help="images attacked at once")] = 16,
    seed: Annotated[int, typer.Option(help="of random points and noise")] = 0,
) -> None:
    """Take the parts of `fast` out, one by one, and print what is lost; each line when it is known."""
    keep_freed_memory()
    budgets = parse_budgets(steps)
    given = {"encoder": encoder, "images": images, "start": start, "eps": eps, "norm": norm, "limit": limit}
    given |= {"batch_size": batch_size, "seed": seed, "out": "unused"}
    case = load_case(AttackSettings.of(given))
    if len(case.start) < 2:
        raise InputError("expected at least 2 images, got 1: one has no interval")
    typer.echo("| budget | `fast` without | float, median | times as far (95 %) | PNG, median | the same | distance |")
    typer.echo("|---|---|---|---|---|---|---|")
    for budget in budgets:
        whole: Found | None = None
        for without, method in PARTS.items():
            found = measure(case, method, budget, batch_size)
            whole = whole or found
            typer.echo(f"| {budget} | {without} | {_cells(found, whole)} |")


def _cells(found: Found, whole: Found) -> str:
    exact, saved, distance = (float(each.quantile(0.5)) for each in (found.exact, found.saved, found.distance))
    return (
        f"{100 * exact:.3g} | {times_as_far(found.exact, whole.exact)} "
        f"| {100 * saved:.3g} | {times_as_far(found.saved, whole.saved)} | {distance:.3g}"
    )


if __name__ == "__main__":
    start_program(main)
