"""The error that `fast` reduces: raw, whitened, or a mixture of both, chosen per sample."""

import math

import torch
from torch import Tensor

from oodattack.core.directions import binding
from oodattack.core.methods.fast.whitening import RawShare, Whitening
from oodattack.core.problem import Match

TAIL = 0.2  # fraction of the steps, in attacks of up to 100, over which the whitening fades out
MIN_TAIL_STEPS = 4  # with five or ten steps, a fifth is not enough
FADED_AT = 0.75  # fraction of the tail after which the error is fully raw
NEGLIGIBLE_SHARE = 1e-3  # of the raw error: below it, computing distances is not worthwhile


class Push:
    """Whitened errors, with the raw error mixed in where it falls fast or the target is out of reach, and at the end.

    Args:
        steps: N.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.whitening = Whitening()
        self.raw_share: RawShare | None = RawShare()

    def __call__(self, x: Tensor, error: Tensor, n: int, problem: Match) -> Tensor:
        """The error to reduce, (B, K), given the images (B, 3, H, W) after n steps and their errors (B, K)."""
        ending = tail(n, self.steps)
        if ending == 1:
            return error
        raw = out_of_reach(error, x, problem, 1 - n / self.steps).clamp_min(ending)
        if self.raw_share is not None:
            share = self.raw_share(error)
            raw = raw.maximum(share)
            if not bool(share.any()):  # the raw share never rises again
                self.raw_share = None
        return torch.lerp(self.whitening(error), error, raw[:, None])

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        self.whitening.keep(rows)
        if self.raw_share is not None:
            self.raw_share.keep(rows)


def tail(n: int, steps: int) -> float:
    """The share of the raw error in every push after n steps: 0 before the tail, 1 in its last quarter.

    If the target is out of reach, the attack approaches the least squares of line 3 only if it ends on the raw error;
    a target within reach is approached best with whitening. Beyond 100 steps the tail grows with the square root of
    their number; it is never shorter than four steps.

    >>> [round(tail(n, 100), 2) for n in (80, 85, 90, 95)], round(tail(385, 400), 2), round(tail(8, 10), 2)
    ([0.0, 0.11, 0.44, 1.0], 0.69, 0.44)
    """
    length = max(MIN_TAIL_STEPS, TAIL * min(steps, 10 * math.sqrt(steps)))
    return min(1.0, max(0.0, (n - steps + length) / (FADED_AT * length))) ** 2


def out_of_reach(error: Tensor, x: Tensor, problem: Match, remaining: float) -> Tensor:
    """The share of the raw error on images that the ball constrains: (B,), from 0 to 1.

    If the target is out of reach, whitened errors have a different optimum from line 3. We infer this from the error:
    it lies above the straight line from the start's error to zero at the last step (the same line in every try,
    wherever it starts). The share is the fourth power of error / line.

    Args:
        error: (B, K) errors.
        x: (B, 3, H, W) images.
        problem: the problem of these samples.
        remaining: fraction of the steps that remain, in (0, 1].
    """
    line = problem.start_error.clamp_min(torch.finfo(error.dtype).tiny) * remaining
    above = torch.linalg.vector_norm(error, dim=1).div(line).clamp_max(1).pow(4)
    above = torch.where(above > NEGLIGIBLE_SHARE, above, 0)
    if not bool(above.any()):  # as in most steps towards a target within reach
        return above
    return above * binding(x, problem.start, problem.eps, problem.norm).to(above)
