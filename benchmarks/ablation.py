"""`python -m benchmarks.ablation`: the contribution of each part of `fast`.

Each part is removed in turn, with everything else unchanged, and the same images are attacked; each image is compared
with itself. All results are measured by the encoder as loaded.
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

ENDLESS_STEPS = 10**9  # length of a schedule that is still constant when the run ends
MIN_MAPE = 1e-9  # smaller values are rounding errors, and a ratio to zero is undefined


class _Unwhitened(Fast):
    def weigh(self, x: Tensor, error: Tensor, n: int) -> Tensor:  # noqa: ARG002 -- a hook of `Fast`
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
        # With the same total step length, up to 100 steps: there the schedule is a half cosine, whose mean is 1/2.
        self.nadam = CosineNadam(self.step_size / 2, ENDLESS_STEPS)


class _Outward(Fast):
    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        return steepest(gradient, 2)


class _Random(Fast):
    def start(self) -> Tensor:
        return self.clip(self.draw())


class _Last(Fast):
    def counts(self, n: int) -> bool:
        return n == self.steps


class _Rounded(Fast):
    @classmethod
    def default_grid_steps(cls, steps: int) -> int:  # noqa: ARG003
        return 0


PARTS: dict[str, type[Fast]] = {
    "nothing": Fast,
    "whitened errors": _Unwhitened,
    "softened kinks": _Hard,
    "Polyak's step limit": _Uncut,
    "momentum": _Forgetful,
    "the schedule": _Steady,
    "steps along the ball": _Outward,
    "the start (a random point instead)": _Random,
    "the best image (the last instead)": _Last,
    "the search on the grid": _Rounded,
}
"""`fast` without each of its parts, keyed by the part removed."""


@dataclass(frozen=True)
class Errors:
    """The results of a method, per image.

    Attributes:
        exact: (B,) MAPE of the image in floating point.
        saved: (B,) MAPE of the image on the 8-bit grid.
        distance: (B,) distance of the image on the grid from its start, in the norm of the ball.
    """

    exact: Tensor
    saved: Tensor
    distance: Tensor


def measure(case: Case, method: type[Method], steps: int, batch_size: int) -> Errors:
    """Attack all images of a case; the grid search is not counted in ``steps``."""
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
    return Errors(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def error_ratio(errors: Tensor, reference: Tensor) -> str:
    """The geometric mean of the per-image error ratios, with its 95 % confidence interval.

    >>> error_ratio(torch.tensor([0.02, 0.04]), torch.tensor([0.01, 0.02]))
    '2 (2–2)'
    """
    logs = (errors.clamp_min(MIN_MAPE) / reference.clamp_min(MIN_MAPE)).double().log()
    margin = 1.96 * logs.std() / len(logs) ** 0.5
    middle, low, high = (float(value.exp()) for value in (logs.mean(), logs.mean() - margin, logs.mean() + margin))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def main(
    encoder: Annotated[str, typer.Option(help="f, as for `oodattack attack`")],
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    eps: Annotated[str, typer.Option(help="radius of the ball, such as 10 or 16/255")],
    norm: Annotated[str, typer.Option(help="l1, l2 or linf")] = "l2",
    steps: Annotated[str, typer.Option(help="budgets in gradient evaluations, each run separately")] = "20,50,100",
    limit: Annotated[int, typer.Option(help="number of images to attack, evenly spaced")] = 32,
    batch_size: Annotated[int, typer.Option(help="number of images attacked at once")] = 16,
    seed: Annotated[int, typer.Option(help="random seed for noise and random points")] = 0,
) -> None:
    """Remove the parts of `fast` one at a time and print how much the error grows."""
    keep_freed_memory()
    budgets = parse_budgets(steps)
    given = {"encoder": encoder, "images": images, "start": start, "eps": eps, "norm": norm, "limit": limit}
    given |= {"batch_size": batch_size, "seed": seed, "out": "unused"}
    case = load_case(AttackSettings.of(given))
    if len(case.start) < 2:
        raise InputError("expected at least 2 images, got 1; a confidence interval needs two")
    columns = ("budget", "`fast` without", "float, median", "error ratio (95 %)", "PNG, median", "error ratio (95 %)")
    typer.echo(f"| {' | '.join(columns)} | distance |")
    typer.echo("|---|---|---|---|---|---|---|")
    for budget in budgets:
        complete: Errors | None = None
        for without, method in PARTS.items():
            errors = measure(case, method, budget, batch_size)
            complete = complete or errors
            typer.echo(f"| {budget} | {without} | {_cells(errors, complete)} |")


def _cells(errors: Errors, complete: Errors) -> str:
    exact, saved, distance = (float(each.quantile(0.5)) for each in (errors.exact, errors.saved, errors.distance))
    return (
        f"{100 * exact:.3g} | {error_ratio(errors.exact, complete.exact)} "
        f"| {100 * saved:.3g} | {error_ratio(errors.saved, complete.saved)} | {distance:.3g}"
    )


if __name__ == "__main__":
    start_program(main)
