"""The latent attack: f gives the features z; the target is those of x_in (Algorithm 1). It ignores the detector."""

from oodattack.attacks.batch import Ball, Found, Function, Samples, match


def latent(features: Function, samples: Samples, ball: Ball) -> Found:
    """Find images near the starts whose features match those of x_in.

    Args:
        features: images (B, 3, H, W) to features z (B, K).
        samples: the batch.
        ball: the ball and the number of steps.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> found = latent(lambda images: images.mean((2, 3)), Samples(x, 1 - x, [0, 1]), Ball(1.0, 2, 5))
    >>> found.images.shape, bool((found.distance <= 1.001).all())
    (torch.Size([2, 3, 4, 4]), True)
    """
    return match(features, samples, ball, tolerance=0)
