"""The search on the 8-bit grid: it changes pixels by single levels whose effects on the latent add up.

Rounding to 8 bits moves the latent in a random direction, ten to a hundred times as far as it was from the target. But
an image has far more pixels than its latent has components, so changing a few pixels by one level undoes this. The
gradients show which: those that reduce the error most for how much they move the latent.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.core.gradient import Function, Gradient, Pass, evaluate
from oodattack.core.methods.eigen import decompose
from oodattack.core.pixels import LEVELS, as_levels, ball_in_levels, dequantize
from oodattack.core.problem import Lowest, Problem
from oodattack.core.tracker import Tracker

MEMORY = 50  # gradients kept for latents of up to 500 numbers; for longer latents, a tenth of their length
CANDIDATES = 2048  # pixels that a proposal considers
COARSE_CHANGES, FINE_CHANGES = 50, 10  # levels changed between two evaluations: at first, and the minimum
COARSE_EVALUATIONS = 50  # after which the number of changes falls
MIN_DISTURBANCE = 0.3  # lower bound on the `_disturbance` that a change is assumed to cause
FLOOR = 0.01  # added to each pixel's squared gradient, as a fraction of the sample's mean
SQUARES_DECAY = 0.99  # per step, of the squared directions: a memory of about a hundred steps
MIN_EIGENVALUE = 1e-2  # combinations of the remembered errors below this fraction of the largest are not used


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
    """Change 8-bit images by single levels, inside the ball, to bring their latents closer to the targets.

    The error e at each evaluated image gives one combination of the rows of the Jacobian, J^T e. From those that are
    remembered, we know the effect of any change of levels on the span of those errors. The search is greedy: it changes
    one pixel by one level at a time so that the error within that span comes closer to zero, and then evaluates the
    image again. Outside that span, only the size of a change's effect is known: a pixel's column of J is about as long
    as the root of its mean squared gradient. That effect need not be harmful: rounding has already moved z by that
    column times the pixel's rounding error, so if the pixel was halfway between two levels, the other level adds almost
    nothing. The search makes the change with the largest gain *divided by the square root of the squared disturbance
    that it adds*: among pixels that were on their levels, the one best aligned with the error, as in matching pursuit
    (Mallat & Zhang 1993).

    Without a target, a score is lowered in the same way, with an error too large for any number of changes to use up.

    Args:
        f: encoder, (B, 3, H, W) -> (B, K) or (B,).
        problem: the problem of these samples.
        levels: (B, 3, H, W) uint8, inside the balls.
        image: (B, 3, H, W) pixels in [0, 1] that were rounded to the levels.
        squares: (B, 3, H, W) mean squared gradients for varied errors, up to a factor; zeros if unknown.
        steps: number of gradient evaluations; with 0 the images are only evaluated.
        tolerance: MAPE at which a sample is finished.
        gradient: the source of gradients.
        generators: one per sample if the gradient draws random numbers; otherwise empty.

    Returns:
        A tracker whose images are the best levels, (B, 3, H, W) uint8.
    """
    current = levels
    rows = torch.arange(len(levels), device=levels.device)
    found = Tracker(levels, problem.start_loss, steps + 1, tolerance)
    memory = _Memory(steps)
    squares = squares.flatten(1)
    squares = squares + FLOOR * squares.mean(1, keepdim=True)
    squares = torch.where(squares > 0, squares, 1)
    exact = as_levels(image).flatten(1).to(squares)
    for n in range(steps):
        draws = [generators[i] for i in rows.tolist()] if generators else []
        latent, pullback = gradient(f, dequantize(current, problem.start.dtype), draws)
        error = problem.error(latent)
        seen = Pass(latent, torch.ones_like(rows, dtype=torch.bool), gradient.passes, gradient.forwards, pullback)
        arrived = found.see(rows, n, current, seen, error, problem)
        per_level = pullback(problem.cotangent(error)) / (2 * LEVELS)  # J^T e, per change of one level
        error = error.to(per_level)  # targets may have a wider dtype than images
        memory.add(error, per_level)
        if isinstance(problem, Lowest):
            error = error * per_level.abs().flatten(1).sum(1, keepdim=True)  # more than all pixels together can remove
        proposal = _propose(memory, error, current, exact, squares, problem, _changes(n))
        # Without a better proposal, the same image would only be evaluated again; NaN gives no proposal either.
        stay = (~arrived & (proposal != current).flatten(1).any(1)).nonzero().flatten()
        current = proposal
        if len(stay) < len(rows):
            rows, problem, current = rows[stay], problem.rows(stay), current[stay]
            exact, squares = exact[stay], squares[stay]
            memory.keep(stay)
        if len(rows) == 0:
            return found
    last = evaluate(f, dequantize(current, problem.start.dtype))
    found.see(rows, steps, current, last, problem.error(last.latent), problem)
    return found


class DirectionSquares:
    """Decaying sums of the squared directions: how much each pixel matters, for the search on the grid.

    Args:
        images: (B, 3, H, W) images with the shape and dtype of the directions.
    """

    def __init__(self, images: Tensor) -> None:
        self.now, self.kept = torch.zeros_like(images), torch.zeros_like(images)
        self.rows = torch.arange(len(images), device=images.device)

    def add(self, h: Tensor) -> None:
        """Add the directions (b, 3, H, W) of the samples still in the batch."""
        self.now.mul_(SQUARES_DECAY).addcmul_(h, h)

    def keep(self, stay: Tensor) -> None:
        """Store the sums of all samples, and continue with those at ``stay`` (indices into the current batch)."""
        self.kept[self.rows] = self.now
        self.rows, self.now = self.rows[stay], self.now[stay]

    def all(self) -> Tensor:
        """(B, 3, H, W) the sums of all samples, including those that have left the batch."""
        self.kept[self.rows] = self.now
        return self.kept


def _changes(n: int) -> int:
    """Number of levels to change after n evaluations: late in the search, unknown effects of many outweigh their gain.

    >>> [_changes(n) for n in (0, 50, 60, 75, 100)]
    [50, 50, 28, 14, 10]
    """
    return max(FINE_CHANGES, int(COARSE_CHANGES * (COARSE_EVALUATIONS / max(n, COARSE_EVALUATIONS)) ** 3))


class _Memory:
    """The last errors of each sample and their gradients: e / ‖e‖, and J^T e / ‖e‖ per level."""

    def __init__(self, steps: int) -> None:
        self.steps, self.count = steps, 0

    def add(self, error: Tensor, per_level: Tensor) -> None:
        if self.count == 0:
            self.size = min(self.steps, max(MEMORY, error.shape[1] // 10))
            self.errors = error.new_zeros(len(error), self.size, error.shape[1])
            self.gradients = per_level.new_zeros(len(per_level), self.size, per_level[0].numel())
        length = torch.linalg.vector_norm(error, dim=1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
        self.errors[:, self.count % self.size] = error / length
        self.gradients[:, self.count % self.size] = per_level.flatten(1) / length
        self.count += 1

    def keep(self, rows: Tensor) -> None:
        self.errors, self.gradients = self.errors[rows], self.gradients[rows]


def _propose(
    memory: _Memory,
    error: Tensor,
    levels: Tensor,
    exact: Tensor,
    squares: Tensor,
    problem: Problem,
    changes: int,
) -> Tensor:
    """Levels (B, 3, H, W) after up to ``changes`` changes by one level, the best according to the remembered J^T e."""
    norm = problem.norm
    known = min(memory.count, memory.size)
    errors, gradients = memory.errors[:, :known], memory.gradients[:, :known]
    # Orthonormal combinations of the remembered errors.
    values, vectors = decompose((errors @ errors.transpose(1, 2)).cpu().double())
    root = torch.where(values > MIN_EIGENVALUE * values[:, -1:], values.clamp_min(1e-30).rsqrt(), 0)
    basis = (vectors * root[:, None, :]).transpose(1, 2).to(error)
    left = (basis @ (errors @ error[:, :, None]))[:, :, 0]  # the error within their span
    pull = (left[:, None, :] @ basis @ gradients)[:, 0]
    x = levels.flatten(1)
    rounding = x - exact
    promise = pull.abs() * (squares * _disturbance(rounding, pull.sign())).rsqrt()
    index = promise.topk(min(CANDIDATES, pull.shape[1]), dim=1).indices
    rounding, squares = rounding.gather(1, index), squares.gather(1, index)
    effect = basis @ gradients.gather(2, index[:, None, :].expand(-1, known, -1))
    cost = effect.square().sum(1)

    x0, budget = as_levels(problem.start).flatten(1), ball_in_levels(problem.eps, norm)
    value, center = x.gather(1, index).to(x0), x0.gather(1, index)
    spent = torch.linalg.vector_norm(x - x0, norm, dim=1, keepdim=True)
    every = torch.arange(len(x), device=x.device)
    for _ in range(changes):
        pull = (left[:, None, :] @ effect)[:, 0]
        sign = pull.sign()
        new = value - sign
        after = _length_after(spent, value - center, new - center, norm)
        allowed = (new >= 0) & (new <= LEVELS) & (after <= budget[:, None])
        # A change of one level against the pull reduces the squared error within the span by 2 |pull| - cost.
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
    """What a change by ``-sign`` adds to the squared rounding error: little for a pixel that was between two levels."""
    return (1 - 2 * sign * rounding).clamp_min(MIN_DISTURBANCE)


def _length_after(length: Tensor, old: Tensor, new: Tensor, norm: float) -> Tensor:
    """Lengths (B, N) of B vectors after one of N components changes from old to new."""
    if norm == math.inf:
        return torch.maximum(length, new.abs())  # levels inside the ball stay inside
    return (length**norm + new.abs() ** norm - old.abs() ** norm).clamp_min(0) ** (1 / norm)
