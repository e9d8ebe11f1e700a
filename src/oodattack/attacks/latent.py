"""The latent attack: f gives the features z; the target is those of x_in (Algorithm 1). It ignores the detector."""

from oodattack.attacks.batch import Ball, Found, Function, Samples, match


def latent(features: Function, samples: Samples, ball: Ball) -> Found:
    """Find images near the starts whose features match those of x_in.

    Args:
        features: images (B, 3, H, W) to features z (B, K).
        samples: the batch.
        ball: the ball and the number of steps.
    """
    return match(features, samples, ball, tolerance=0)
