"""The latent attack: f = the features z, the target those of x_in (Algorithm 1). It knows nothing of the detector."""

from oodattack.attacks.batch import Ball, Found, Function, Samples, match


def latent(features: Function, samples: Samples, ball: Ball) -> Found:
    """Images near the starts whose features are those of x_in.

    Args:
        features: view of z.
        samples: the batch.
        ball: its bound.
    """
    return match(features, samples, ball, tolerance=0)
