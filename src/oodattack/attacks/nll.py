"""The attack on a likelihood: f is a flow's negative log-likelihood, and the target any number (Section II-C)."""

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Samples, run
from oodattack.networks import Glow

CLOSE_ENOUGH = 1e-4  # bits per dimension: a tenth of what separates neighbouring images of one face


def nll(model: Glow, samples: Samples, ball: Ball, target: Tensor | None = None, *, restarts: int = 1) -> Found:
    """Find images near the starts that have a given negative log-likelihood under a flow.

    Args:
        model: the flow.
        samples: the batch.
        ball: the ball and the number of steps.
        target: negative log-likelihoods (B,) to reach, in bits per dimension; by default those of x_in.
        restarts: number of tries, see `oodattack.attack`.

    >>> model = Glow(8, steps=1, levels=1, width=4)
    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0), model(torch.rand(16, 3, 8, 8))  # initialises the activation normalisation
    >>> batch = Samples(torch.rand(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5), [0, 1])
    >>> found = nll(model.eval(), batch, Ball(eps=2.0, norm=2, steps=20))
    >>> found.images.dtype, bool((found.distance <= 2.0001).all())
    (torch.uint8, True)
    """
    if target is None:
        with torch.no_grad():
            target = model.bits_per_dim(samples.x_in)
    tolerance = CLOSE_ENOUGH / max(float(target.abs().max()), CLOSE_ENOUGH)
    return run(model.bits_per_dim, samples, target, ball, tolerance=tolerance, restarts=restarts)
