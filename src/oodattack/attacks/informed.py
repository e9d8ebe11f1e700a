"""The informed attack: f is what the detector reads, and the target its value for x_in. It does not know the score."""

from collections.abc import Sequence

from oodattack.attacks.batch import Ball, Found, Function, Samples, match

CLOSE_ENOUGH = 1e-4  # MAPE at which a sample is finished: a tenth of what the paper calls small


def informed(reads: Function, parts: Sequence[int] | None, samples: Samples, ball: Ball) -> Found:
    """Find images near the starts from which a detector reads the same values as from x_in.

    Args:
        reads: images (B, 3, H, W) to the values (B, K) that the detector reads.
        parts: lengths of the parts of these values that differ in scale; see `Detector.parts`.
        samples: the batch.
        ball: the ball and the number of steps.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> found = informed(lambda images: images.mean((2, 3)), (1, 2), Samples(x, 1 - x, [0, 1]), Ball(1.0, 2, 5))
    >>> found.images.shape, bool((found.distance <= 1.001).all())
    (torch.Size([2, 3, 4, 4]), True)
    """
    return match(reads, samples, ball, parts=parts, tolerance=CLOSE_ENOUGH)
