"""What goes into an attack on a batch, and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.core.attack import attack
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
    """What bounds an attack.

    Attributes:
        eps: radius, in pixels of [0, 1].
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
        mape: (B,) of what was matched, a fraction; of a direct attack, how far the score stayed above its aim, relative
            to the aim.
        distance: (B,) from the start, in the norm of the ball.
        gradient_evaluations: (B,).
        forward_evaluations: (B,) passes without a gradient.
    """

    images: Tensor
    mape: Tensor
    distance: Tensor
    gradient_evaluations: Tensor
    forward_evaluations: Tensor


def match(f: Function, samples: Samples, ball: Ball, *, parts: Sequence[int] | None = None, tolerance: float) -> Found:
    """Images near the starts whose f is that of x_in.

    Args:
        f: what is matched.
        samples: the batch.
        ball: its bound.
        parts: lengths of the parts of f that differ in scale; None for one.
        tolerance: MAPE (a fraction) at which a sample is finished.
    """
    with torch.no_grad():
        target = f(samples.x_in)
    return run(f, samples, target, ball, parts=parts, tolerance=tolerance)


def run(f: Function, samples: Samples, target: Tensor, ball: Ball, **options: Any) -> Found:
    """Drive f to a target; the images are on the 8-bit grid. Options are those of `oodattack.attack`."""
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
