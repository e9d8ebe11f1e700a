"""The inputs and outputs of an attack on a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.core.attack import attack
from oodattack.core.gradient import Autograd, Gradient
from oodattack.core.pixels import quantize

Function = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] to (B,) or (B, K)."""


@dataclass(frozen=True)
class Samples:
    """A batch of samples.

    Attributes:
        x_in: in-distribution images (B, 3, H, W) in [0, 1].
        start: out-of-distribution images (B, 3, H, W) in [0, 1], where the attacks start.
        seeds: one per sample.
    """

    x_in: Tensor
    start: Tensor
    seeds: Sequence[int]

    def some(self, rows: Tensor) -> "Samples":
        """The samples at these indices.

        >>> batch = Samples(torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1), [5, 6])
        >>> batch.some(torch.tensor([1])).seeds
        [6]
        """
        return Samples(self.x_in[rows], self.start[rows], [self.seeds[i] for i in rows.tolist()])


@dataclass(frozen=True)
class Ball:
    """The limits of an attack: its ball and its budget.

    Attributes:
        eps: radius of the ball, in pixels of [0, 1].
        norm: 1, 2 or infinity.
        steps: gradient evaluations in floating point.
    """

    eps: float
    norm: float
    steps: int


@dataclass(frozen=True)
class Found:
    """What an attack found for a batch, on the CPU.

    Attributes:
        images: (B, 3, H, W) uint8.
        mape: (B,) MAPE of the values that were matched, a fraction; NaN for attacks that match none.
        distance: (B,) from the start, in the norm of the ball.
        gradient_evaluations: (B,) forward and backward passes.
        forward_evaluations: (B,) further forward passes.
    """

    images: Tensor
    mape: Tensor
    distance: Tensor
    gradient_evaluations: Tensor
    forward_evaluations: Tensor


def match(
    f: Function,
    samples: Samples,
    ball: Ball,
    *,
    parts: Sequence[int] | None = None,
    tolerance: float,
    restarts: int = 1,
    gradient: Gradient | None = None,
) -> Found:
    """Find images near the starts for which f has the same value as for x_in.

    Args:
        f: the function whose value is matched.
        samples: the batch.
        ball: the ball and the number of steps.
        parts: lengths of the parts of f that differ in scale; None for a single part.
        tolerance: MAPE (a fraction) at which a sample is finished.
        restarts: number of tries, see `oodattack.attack`.
        gradient: the source of gradients; None for autograd.
    """
    with torch.no_grad():
        target = f(samples.x_in)
    return run(
        f, samples, target, ball, parts=parts, tolerance=tolerance, restarts=restarts, gradient=gradient or Autograd()
    )


def run(f: Function, samples: Samples, target: Tensor | None, ball: Ball, **options: Any) -> Found:
    """Attack f with a target, (B, K) or (B,), or without one; the images found are on the 8-bit grid.

    Args:
        f: the function under attack.
        samples: the batch.
        target: the values of f to reach; None lowers a score (B,) as far as possible.
        ball: the ball and the number of steps.
        options: further arguments of `oodattack.attack`.
    """
    result = attack(
        f,
        samples.start,
        target,
        eps=ball.eps,
        norm=ball.norm,
        steps=ball.steps,
        seed=list(samples.seeds),
        pixels=256,
        check=False,
        **options,
    )
    return Found(
        quantize(result.image).cpu(),
        result.mape.cpu(),
        result.distance.cpu(),
        result.gradient_evaluations.cpu(),
        result.forward_evaluations.cpu(),
    )
