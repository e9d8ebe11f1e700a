"""The search on the 8-bit grid: single levels are changed so that their effects on the latent add up.

Rounding to 8 bits moves the latent at random, ten or a hundred times as far as it was from the target. But there are
far more pixels than latents, so changing a few single levels undoes it. The gradients show which: those that take much
off the error for how much they move the latent.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.core.gradient import Function, Gradient, Pass, evaluate
from oodattack.core.methods.fast.whitening import decompose
from oodattack.core.pixels import LEVELS, as_levels, ball_in_levels, dequantize
from oodattack.core.problem import Lowest, Problem
from oodattack.core.tracker import Tracker

MEMORY = 50  # gradients kept, for latents up to ten times as long; for longer ones, a tenth of their length
CANDIDATES = 2048  # pixels that a proposal considers
COARSE_CHANGES, FINE_CHANGES = 50, 10  # levels changed between two evaluations: at first, and at least
COARSE_EVALUATIONS = 50  # after which the number of changes falls
MIN_DISTURBANCE = 0.3  # the least `_disturbance` that a change is assumed to cause
FLOOR = 0.01  # of the mean squared gradient of a sample's pixels: what the least sensitive pixels are assumed to have
MIN_EIGENVALUE = 1e-2  # share of the largest, below which a combination of the remembered errors is not used


def descend(
    f: Function,
    problem: Problem,
    levels: Tensor,
    image: Tensor,
    squares: Tensor,
    steps: int,
    tolerance: float,
    gradient: Gradient,
    generators: Sequence[torch.Generator] = (),
) -> Tracker:
    """Change single levels of 8-bit images, inside the ball, to bring their latents closer to the targets.

    The error e at each evaluated image gives one row of the Jacobian, J^T e. The remembered rows give the effect of any
    change of levels on the span of those errors. Greedily, one level of one pixel at a time, a change is made that
    brings the error in that span closer to zero; then the image is evaluated again. What a change does outside that
    span is not known, except for its size: a pixel's column of J is about as long as the root of its mean squared
    gradient. And it need not make things worse: rounding has disturbed z by that column times the pixel's rounding
    error, so the other level adds almost nothing where the pixel lay between two. The change with the largest gain
    *divided by the root of the square that it adds* is made: among pixels that lay on their levels, the one best
    aligned with the error, as in matching pursuit (Mallat & Zhang 1993).

    A score without target is lowered in the same way, with an error that no number of changes uses up.

    Args:
        f: encoder.
        problem: starts, aims and balls.
        levels: (B, 3, H, W) uint8, inside the balls.
        image: (B, 3, H, W) pixels in [0, 1] that were rounded to the levels.
        squares: (B, 3, H, W) mean squared gradients for varied errors, up to a factor; zeros where none are known.
        steps: gradient evaluations; with 0 the images are only evaluated.
        tolerance: MAPE at which a sample is finished.
        gradient: where gradients come from.
        generators: one per sample, for gradients that draw random numbers; none for those that do not.

    Returns:
        A tracker whose images are the best levels.
    """
    now, at = problem, levels
    rows = torch.arange(len(levels), device=levels.device)
    found = Tracker(levels, now.start_loss, steps + 1, tolerance)
    memory = _Memory(steps)
    squares = squares.flatten(1)
    squares = squares + FLOOR * squares.mean(1, keepdim=True)
    squares = torch.where(squares > 0, squares, 1)
    exact = as_levels(image).flatten(1).to(squares)
    for n in range(steps):
        draws = [generators[i] for i in rows.tolist()] if generators else []
        latent, pullback = gradient(f, dequantize(at, now.start.dtype), draws)
        error = now.error(latent)
        seen = Pass(latent, torch.ones_like(rows, dtype=torch.bool), gradient.passes, gradient.forwards, pullback)
        arrived = found.see(rows, n, at, seen, error, now)
        slope = pullback(now.cotangent(error)) / (2 * LEVELS)  # of J^T e, per level
        if isinstance(now, Lowest):
            error = error * slope.abs().flatten(1).sum(1, keepdim=True)  # more than all pixels could take off together
        memory.add(error.to(slope), slope)  # targets may be wider than images
        proposal = _propose(memory, error.to(slope), at, exact, squares, now, _changes(n))
        # An image with no better proposal would only be evaluated again; NaN gives no proposal either.
        stay = (~arrived & (proposal != at).flatten(1).any(1)).nonzero().flatten()
        at = proposal
        if len(stay) < len(rows):
            rows, now, at = rows[stay], now.rows(stay), at[stay]
            exact, squares = exact[stay], squares[stay]
            memory.keep(stay)
        if len(rows) == 0:
            return found
    last = evaluate(f, dequantize(at, now.start.dtype))
    found.see(rows, steps, at, last, now.error(last.latent), now)
    return found


def _changes(n: int) -> int:
    """Number of levels to change after n evaluations: near the end, the unseen effects of many outweigh their gain.

    >>> [_changes(n) for n in (0, 50, 60, 75, 100)]
    [50, 50, 28, 14, 10]
    """
    return max(FINE_CHANGES, int(COARSE_CHANGES * (COARSE_EVALUATIONS / max(n, COARSE_EVALUATIONS)) ** 3))


class _Memory:
    """The last errors and gradients of each sample: e / ‖e‖ and J^T e / ‖e‖, the row of J in that direction."""

    def __init__(self, steps: int) -> None:
        self.steps, self.count = steps, 0

    def add(self, error: Tensor, slope: Tensor) -> None:
        if self.count == 0:
            self.size = min(self.steps, max(MEMORY, error.shape[1] // 10))
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
    changes: int,
) -> Tensor:
    """Levels (B, 3, H, W) with up to ``changes`` single changes, the best by the remembered rows of J."""
    norm = now.norm
    known = min(memory.count, memory.size)
    errors, slopes = memory.errors[:, :known], memory.slopes[:, :known]
    # Orthonormal combinations of the remembered errors.
    values, vectors = decompose((errors @ errors.transpose(1, 2)).cpu().double())
    root = torch.where(values > MIN_EIGENVALUE * values[:, -1:], values.clamp_min(1e-30).rsqrt(), 0)
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
    """What a change by ``-sign`` adds to the squared rounding error: little for a pixel that lay between two levels."""
    return (1 - 2 * sign * rounding).clamp_min(MIN_DISTURBANCE)


def _length_after(length: Tensor, old: Tensor, new: Tensor, norm: float) -> Tensor:
    """Lengths (B, N) of B vectors, each after one of N components changed from old to new."""
    if norm == math.inf:
        return torch.maximum(length, new.abs())  # levels inside the ball stay inside
    return (length**norm + new.abs() ** norm - old.abs() ** norm).clamp_min(0) ** (1 / norm)
