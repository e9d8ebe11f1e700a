"""The latent attack: f gives the features z; the target is those of x_in (Algorithm 1). It ignores the detector."""

from oodattack.attacks.batch import Ball, Found, Function, Samples, match
from oodattack.core.gradient import Gradient


def latent(
    features: Function, samples: Samples, ball: Ball, *, restarts: int = 1, gradient: Gradient | None = None
) -> Found:
    """Find images near the starts whose features match those of x_in.

    Args:
        features: images (B, 3, H, W) to features z (B, K).
        samples: the batch.
        ball: the ball and the number of steps.
        restarts: number of tries, see `oodattack.attack`.
        gradient: the source of gradients; None for autograd.

    >>> import torch
    >>> batch = Samples(torch.full((1, 3, 2, 2), 0.4), torch.full((1, 3, 2, 2), 0.6), [0])
    >>> found = latent(lambda x: x.mean((2, 3)), batch, Ball(eps=1.0, norm=2, steps=20))
    >>> found.images.dtype, bool(found.mape < 0.05)
    (torch.uint8, True)
    """
    return match(features, samples, ball, tolerance=0, restarts=restarts, gradient=gradient)
