"""The direct attack: f is the detector's score, which is lowered as far as ball and budget allow."""

from dataclasses import replace

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Samples, run
from oodattack.attacks.follow import Followed
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector


def direct(
    followed: Followed, detector: Detector, samples: Samples, ball: Ball, initial: Tensor | None, restarts: int = 1
) -> Found:
    """Find images near the starts with the lowest scores; keep the better of two tries per sample.

    Args:
        followed: the score in a form that can be attacked (`oodattack.attacks.follow`).
        detector: the detector, whose score selects the better try.
        samples: the batch.
        ball: the ball, and the number of steps of each try.
        initial: (B, 3, H, W) images in [0, 1] within the ball from which the second try starts, such as those that the
            latent attack found; None for no second try.
        restarts: number of attempts per try, see `oodattack.attack`.

    >>> from oodattack.attacks import follow
    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> detector, batch = Brightness(), Samples(torch.full((1, 3, 4, 4), 0.4), torch.full((1, 3, 4, 4), 0.6), [0])
    >>> followed = follow(detector, batch.start, torch.tensor([0.3, 0.4, 0.5]))
    >>> found = direct(followed, detector, batch, Ball(eps=4.0, norm=2, steps=20), None)
    >>> bool(detector.score(dequantize(found.images)) < detector.score(batch.x_in))
    True
    """

    def lowest(initial: Tensor | None) -> Found:
        return run(followed.f, samples, None, ball, gradient=followed.gradient, initial=initial, restarts=restarts)

    first = lowest(None)
    if initial is None:
        return first
    second = lowest(initial)
    before, after = (
        detector.score(dequantize(found.images).to(samples.start)).cpu().nan_to_num(nan=torch.inf)
        for found in (first, second)
    )
    better = after < before
    return replace(
        first,
        images=torch.where(better[:, None, None, None], second.images, first.images),
        distance=torch.where(better, second.distance, first.distance),
        gradient_evaluations=first.gradient_evaluations + second.gradient_evaluations,
        forward_evaluations=first.forward_evaluations + second.forward_evaluations + 2,
    )
