"""The informed attack: f = what the detector reads, the target the same of x_in. It does not know the score."""

from collections.abc import Sequence

from oodattack.attacks.batch import Ball, Found, Function, Samples, match

CLOSE_ENOUGH = 1e-4  # MAPE at which a sample is finished: a tenth of what the paper calls small


def informed(reads: Function, parts: Sequence[int] | None, samples: Samples, ball: Ball) -> Found:
    """Images near the starts of which a detector reads the same as of x_in.

    Args:
        reads: what the detector reads.
        parts: lengths of its parts that differ in scale; see `Detector.parts`.
        samples: the batch.
        ball: its bound.
    """
    return match(reads, samples, ball, parts=parts, tolerance=CLOSE_ENOUGH)
