"""The latent attack: f = the features z, the target those of x_in (Algorithm 1). It knows nothing of the detector."""

from oodattack.attacks.batch import Ball, Found, Function, Samples, match


def latent(features: Function, samples: Samples, ball: Ball) -> Found:
    """Images near the starts whose features are those of x_in.

    Args:
        features: view of z.
        samples: the batch.
        ball: its bound.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 4)
    >>> found = latent(lambda images: images.mean((2, 3)), Samples(x, 1 - x, [0, 1]), Ball(1.0, 2, 5))
    >>> found.images.shape, bool((found.distance <= 1.001).all())
    (torch.Size([2, 3, 4, 4]), True)
    """
    return match(features, samples, ball, tolerance=0)
