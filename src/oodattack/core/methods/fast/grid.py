"""The last part of an attack, on the 8-bit grid: single levels are changed so that their effects on z add up.

Rounding to 8 bits moves z at random, ten or a hundred times as far as it was from the target. But there are far more
pixels than latents, so that some few changes of single levels undo it; which, the gradients tell: those that take off
the error much of all that they do to z.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.core.gradient import Gradient
from oodattack.core.methods.fast.whitening import decompose
from oodattack.core.metrics import as_matrix
from oodattack.core.pixels import LEVELS, as_levels, ball_in_levels, dequantize
from oodattack.core.problem import Problem

MEMORY = 50  # gradients kept, of latents up to ten times as long; of longer ones, a tenth of their length
CANDIDATES = 2048  # pixels that a proposal looks at
CHANGES = 50  # levels changed between two evaluations, the first `COARSE` times; from then on fewer, down to `FINE`
COARSE, FINE = 50, 10
BETWEEN = 0.3  # least `_disturbance` that a change is taken to make
FLOOR = 0.01  # of the mean squared slope of a sample's pixels: what the least sensitive are taken to have
SPAN = 1e-2  # least share of the largest eigenvalue for which a combination of the remembered errors is used


@dataclass(frozen=True)
class Descent:
    """The best images found on the grid; one row per sample."""

    levels: Tensor  # (B, 3, H, W) uint8
    loss: Tensor  # (B,)
    arrived: Tensor  # (B,) bool
    calls: Tensor  # (B,) gradients asked for
    looks: Tensor  # (B,) forward passes alone


def descend(
    f: Callable[[Tensor], Tensor],
    problem: Problem,
    levels: Tensor,
    image: Tensor,
    slopes: Tensor,
    norm: float,
    steps: int,
    tolerance: float,
    gradient: Gradient,
    generators: Sequence[torch.Generator] = (),
) -> Descent:
    """Change single levels of 8-bit images until their latents are closer to the targets, inside the ball.

    The error e at each image that is evaluated gives one row of the Jacobian, J^T e. From the remembered rows the
    effect of any change of levels on the span of those errors is known. Greedily, one level of one pixel at a time,
    a change is made that brings the error in that span closer to zero; then the image is evaluated again. What a
    change does outside of that span is not known, but for its size: a pixel's column of J is about as long as the
    root of its mean squared slope. And it need not make things worse: rounding has disturbed z by that column times
    the pixel's rounding error, so that the other level adds nearly nothing where the pixel lay between two. The change
    with the largest gain *for the root of the square that it adds* is made: among pixels that lay on their levels the
    one best aligned with the error, as in matching pursuit (Mallat & Zhang 1993).

    Args:
        f: encoder.
        problem: starts, targets and balls.
        levels: (B, 3, H, W) uint8, inside the balls.
        image: (B, 3, H, W) pixels in [0, 1] that were rounded to the levels.
        slopes: (B, 3, H, W) mean squares of slopes for varied errors, up to a factor; zeros where none are known.
        norm: 1, 2 or infinity.
        steps: gradient evaluations; 0 only looks at the images.
        tolerance: MAPE at which a sample is finished.
        gradient: where gradients come from.
        generators: one for each sample, for gradients that draw; none for those that do not.

    Returns:
        A `Descent`: the best of the images, with the loss and the work.
    """
    now, at = problem, levels
    rows = torch.arange(len(levels), device=levels.device)
    found = Descent(
        levels=levels.clone(),
        loss=torch.full_like(problem.weight[:, 0], math.inf),
        arrived=torch.zeros_like(rows, dtype=torch.bool),
        calls=torch.zeros_like(rows),
        looks=torch.zeros_like(rows),
    )
    memory = _Memory(min(steps, max(MEMORY, problem.target.shape[1] // 10)))
    squares = slopes.flatten(1)
    squares = squares + FLOOR * squares.mean(1, keepdim=True)
    squares = torch.where(squares > 0, squares, 1)
    exact = as_levels(image).flatten(1).to(squares)
    for n in range(steps):
        draws = [generators[i] for i in rows.tolist()] if generators else []
        latent, pullback = gradient(f, dequantize(at, now.start.dtype), draws)
        found.calls[rows] += 1
        error = now.error(latent)
        arrived = _record(found, rows, at, latent, error, now, tolerance)
        slope = pullback(now.weight * error) / LEVELS
        memory.add(error.to(slope), slope)  # targets may be wider than images
        proposal = _propose(memory, error.to(slope), at, exact, squares, now, norm, _changes(n))
        # An image for which nothing better is in sight would only be evaluated again; nor does NaN show anything.
        stay = (~arrived & (proposal != at).flatten(1).any(1)).nonzero().flatten()
        at = proposal
        if len(stay) < len(rows):
            rows, now, at = rows[stay], now.rows(stay), at[stay]
            exact, squares = exact[stay], squares[stay]
            memory.keep(stay)
        if len(rows) == 0:
            return found
    with torch.no_grad():
        latent = as_matrix(f(dequantize(at, now.start.dtype)))
    found.looks[rows] += 1
    _record(found, rows, at, latent, now.error(latent), now, tolerance)
    return found


def _changes(n: int) -> int:
    """How many levels to change after n evaluations: in the end, what many do unseen is more than they gain.

    >>> [_changes(n) for n in (0, 50, 60, 75, 100)]
    [50, 50, 28, 14, 10]
    """
    return max(FINE, int(CHANGES * (COARSE / max(n, COARSE)) ** 3))


class _Memory:
    """The last errors and gradients of each sample: e / ‖e‖ and J^T e / ‖e‖, the row of J in that direction."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0

    def add(self, error: Tensor, slope: Tensor) -> None:
        if self.count == 0:
            self.errors = error.new_zeros(len(error), self.size, error.shape[1])
            self.slopes = slope.new_zeros(len(slope), self.size, slope[0].numel())
        length = torch.linalg.vector_norm(error, dim=1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
        self.errors[:, self.count % self.size] = error / length
        self.slopes[:, self.count % self.size] = slope.flatten(1) / length
        self.count += 1

    def keep(self, rows: Tensor) -> None:
        self.errors, self.slopes = self.errors[rows], self.slopes[rows]


def _propose(
    memory: _Memory,
    error: Tensor,
    levels: Tensor,
    exact: Tensor,
    squares: Tensor,
    now: Problem,
    norm: float,
    changes: int,
) -> Tensor:
    """Levels (B, 3, H, W) with up to so many single changes that the remembered rows of J find best."""
    known = min(memory.count, memory.size)
    errors, slopes = memory.errors[:, :known], memory.slopes[:, :known]
    # For combinations of the remembered errors that are orthonormal.
    values, vectors = decompose((errors @ errors.transpose(1, 2)).cpu().double())
    root = torch.where(values > SPAN * values[:, -1:], values.clamp_min(1e-30).rsqrt(), 0)
    basis = (vectors * root[:, None, :]).transpose(1, 2).to(error)
    left = (basis @ (errors @ error[:, :, None]))[:, :, 0]  # the error in their span
    pull = (left[:, None, :] @ basis @ slopes)[:, 0]
    x = levels.flatten(1)
    rounding = x - exact
    promise = pull.abs() * (squares * _disturbance(rounding, pull.sign())).rsqrt()
    index = promise.topk(min(CANDIDATES, pull.shape[1]), dim=1).indices
    rounding, squares = rounding.gather(1, index), squares.gather(1, index)
    effect = basis @ slopes.gather(2, index[:, None, :].expand(-1, known, -1))
    cost = effect.square().sum(1)

    x0, budget = as_levels(now.start).flatten(1), ball_in_levels(now.eps, norm)
    value, center = x.gather(1, index).to(x0), x0.gather(1, index)
    spent = torch.linalg.vector_norm(x - x0, norm, dim=1, keepdim=True)
    every = torch.arange(len(x), device=x.device)
    for _ in range(changes):
        pull = (left[:, None, :] @ effect)[:, 0]
        sign = pull.sign()
        new = value - sign
        after = _length_after(spent, value - center, new - center, norm)
        allowed = (new >= 0) & (new <= LEVELS) & (after <= budget[:, None])
        # A change of one level against the pull takes 2 |pull| - cost off the squared error in the span.
        gain = (2 * pull.abs() - cost) * (squares * _disturbance(rounding, sign)).rsqrt()
        gain, best = torch.where(allowed, gain, 0).max(1)
        use = gain > 0
        if not bool(use.any()):
            break
        at = every[use], best[use]
        left[use] -= effect[at[0], :, at[1]] * sign[at][:, None]
        spent[use, 0] = after[at]
        value[at] = new[at]
        rounding[at] -= sign[at]
    return x.scatter(1, index, value.to(x.dtype)).view_as(levels)


def _disturbance(rounding: Tensor, sign: Tensor) -> Tensor:
    """What a change by ``-sign`` adds to squared rounding errors: little for a pixel that lay between two levels."""
    return (1 - 2 * sign * rounding).clamp_min(BETWEEN)


def _length_after(length: Tensor, old: Tensor, new: Tensor, norm: float) -> Tensor:
    """Lengths (B, N) of B vectors, each with one of N components changed from old to new."""
    if norm == math.inf:
        return torch.maximum(length, new.abs())  # levels inside the ball stay inside
    return (length**norm + new.abs() ** norm - old.abs() ** norm).clamp_min(0) ** (1 / norm)


def _record(
    found: Descent, rows: Tensor, levels: Tensor, latent: Tensor, error: Tensor, now: Problem, tolerance: float
) -> Tensor:
    """Keep the better images; returns which samples have arrived."""
    loss, (_, arrived) = error.square().sum(1), now.judge(latent, tolerance)
    better = (loss < found.loss[rows]) | arrived
    place = rows[better]
    found.levels[place], found.loss[place] = levels[better], loss[better]
    found.arrived[place] = arrived[better]
    return arrived
