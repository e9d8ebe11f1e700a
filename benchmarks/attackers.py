"""The methods under comparison.

`paper` is run with the step of the authors' later demo (eps/100; the paper states none) and with a tuned step, Adam
with a half-cosine step with a tuned step, APGD and L-BFGS-B without one, and `fast` with its defaults. Tuning favours
the tuned method: for each case and budget, the best step of a grid is chosen by the reported metric itself (median
float MAPE of the first batch), and the cost of that search is not counted.

An image is saved in two ways: by plain rounding, and by our search on the 8-bit grid, which is given to every method
and is part of its budget.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import adv_lib_attacks
from benchmarks.adam_cosine import AdamCosine
from benchmarks.art_attack import art_images
from benchmarks.inputs import Case
from benchmarks.lbfgsb import lbfgsb
from oodattack import attack
from oodattack.core.methods import Method, get_method

Run = Callable[[nn.Module, Case, slice, int, float | None, int], Tensor]
"""(f, case, rows, steps, step size or None for the method's own, evaluations of the grid search) -> images
(B, 3, H, W). The steps include those of the search; with a search, the images are on the 8-bit grid."""

Foreign = Callable[[nn.Module, Case, slice, int, float | None], Tensor]
"""The same for an attack of another library, which knows no grid: (f, case, rows, steps, step size) -> images."""

STEP_FACTORS = (1 / 30, 1 / 10, 1 / 3, 1.0, 3.0, 10.0)  # multiples of the step of `paper`, for tuning
ADAM_STEPS = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1)  # in pixels of [0, 1]
MAX_SEARCH = 50


@dataclass(frozen=True)
class Attacker:
    """One competitor of the comparison.

    Attributes:
        label: its label in the tables.
        name: the attack; attackers with the same name share their runs.
        run: runs the attack.
        step_sizes: the step sizes to try, in ascending order, of which the best is reported; None is the method's own.
    """

    label: str
    name: str
    run: Run
    step_sizes: tuple[float | None, ...] = (None,)


def attackers(case: Case) -> list[Attacker]:
    """All methods that can attack this case and whose libraries are installed; `fast` is the last."""
    found = [
        Attacker("paper", "paper", partial(_ours, "paper"), (_own_step(case),)),
        Attacker("paper-tuned", "paper", partial(_ours, "paper"), tuple(k * _own_step(case) for k in STEP_FACTORS)),
        Attacker("adam-cosine", "adam-cosine", partial(_ours, AdamCosine), ADAM_STEPS),
    ]
    if adv_lib_attacks.AVAILABLE:
        found.append(Attacker("apgd", "apgd", partial(_theirs, _apgd)))
    if case.norm == math.inf:
        if importlib.util.find_spec("scipy") is not None:
            found.append(Attacker("lbfgsb", "lbfgsb", partial(_theirs, _lbfgsb)))
        if importlib.util.find_spec("art") is not None:
            steps = tuple(case.eps / part for part in (20, 10, 4))
            found.append(Attacker("art-tuned", "art", partial(_theirs, _art), steps))
    return [*found, Attacker("fast", "fast", partial(_ours, "fast"))]


def search_share(steps: int) -> int:
    """How many of the evaluations of a budget its search on the grid receives: a third, at most 50."""
    return min(MAX_SEARCH, steps // 3)


def _own_step(case: Case) -> float:
    """The step of `paper`: eps/100 (L2 and Linf)."""
    radius = torch.tensor([case.eps], dtype=torch.float64)
    any_budget = 1  # it does not depend on it
    return float(get_method("paper").default_step_size(radius, case.start[0].numel(), case.norm, any_budget))


def _ours(
    method: str | type[Method],
    f: nn.Module,
    case: Case,
    rows: slice,
    steps: int,
    step_size: float | None,
    grid_steps: int,
    initial: Tensor | None = None,
) -> Tensor:
    return attack(
        f,
        case.start[rows],
        case.target[rows],
        eps=case.eps,
        norm=case.norm,
        steps=steps - grid_steps,
        method=method,
        step_size=step_size,
        seed=case.seeds[rows],
        pixels=256 if grid_steps else None,
        grid_steps=grid_steps if grid_steps else None,
        parts=case.encoder.parts,
        initial=initial,
        check=False,  # checked once, when the case was loaded
    ).image


def _theirs(
    foreign: Foreign, f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None, grid_steps: int
) -> Tensor:
    image = foreign(f, case, rows, steps - grid_steps, step_size)
    if grid_steps == 0:
        return image
    # One gradient at the image itself comes before the search, and keeps the image unless its step happens to help.
    return _ours("plain", f, case, rows, grid_steps, None, grid_steps - 1, image) if grid_steps > 1 else image


def _apgd(f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None) -> Tensor:  # noqa: ARG001
    start, target = case.start[rows], case.target[rows]
    seed = case.seeds[rows][0]
    return adv_lib_attacks.apgd(f, start, target, eps=case.eps, norm=case.norm, steps=steps, seed=seed)


def _lbfgsb(f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None) -> Tensor:  # noqa: ARG001
    return lbfgsb(f, case.start[rows], case.target[rows], eps=case.eps, steps=steps)


def _art(f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None) -> Tensor:
    return art_images(f, case.start[rows], case.x_in[rows], case.eps, max_iter=steps, step_size=step_size)
