"""The informed attack: f is what the detector reads, and the target its value for x_in. It does not know the score."""

from collections.abc import Sequence

from oodattack.attacks.batch import Ball, Found, Function, Samples, match
from oodattack.core.gradient import Gradient

CLOSE_ENOUGH = 1e-4  # MAPE at which a sample is finished: a tenth of what the paper calls small


def informed(
    reads: Function,
    parts: Sequence[int] | None,
    samples: Samples,
    ball: Ball,
    *,
    restarts: int = 1,
    gradient: Gradient | None = None,
) -> Found:
    """Find images near the starts from which a detector reads the same values as from x_in.

    Args:
        reads: images (B, 3, H, W) to the values (B, K) that the detector reads.
        parts: lengths of the parts of these values that differ in scale; see `Detector.parts`.
        samples: the batch.
        ball: the ball and the number of steps.
        restarts: number of tries, see `oodattack.attack`.
        gradient: the source of gradients; None for autograd.

    >>> import torch
    >>> batch = Samples(torch.full((1, 3, 2, 2), 0.4), torch.full((1, 3, 2, 2), 0.6), [0])
    >>> found = informed(lambda x: x.flatten(1), [6, 6], batch, Ball(eps=1.0, norm=2, steps=20))
    >>> found.images.dtype, bool(found.mape < 0.05)
    (torch.uint8, True)
    """
    return match(reads, samples, ball, parts=parts, tolerance=CLOSE_ENOUGH, restarts=restarts, gradient=gradient)
