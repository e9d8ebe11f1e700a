"""The direct attack: f is the detector's score, which is lowered to just below that of x_in."""

from dataclasses import replace

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Samples, run
from oodattack.attacks.follow import Followed
from oodattack.attacks.ranks import LOWEST
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector

MARGIN = 0.02  # how far below the rank of x_in the target lies: 2 % of the in-distribution images have scores between
TOLERANCE = MARGIN / 2 / (LOWEST + 1)  # MAPE of the rank at which a sample is finished


def direct(followed: Followed, detector: Detector, samples: Samples, ball: Ball, initial: Tensor | None) -> Found:
    """Find images near the starts whose score is no higher than that of x_in; keep the better of two tries per sample.

    Args:
        followed: the score in a form that can be attacked (`oodattack.attacks.follow`).
        detector: the detector, whose score selects the better try.
        samples: the batch.
        ball: the ball and the number of steps.
        initial: (B, 3, H, W) images in [0, 1] within the ball from which the second try starts, such as those that the
            latent attack found; None for no second try. It covers only samples that have not reached their target.

    >>> from oodattack.attacks import follow
    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> detector, batch = Brightness(), Samples(torch.full((1, 3, 4, 4), 0.4), torch.full((1, 3, 4, 4), 0.6), [0])
    >>> followed = follow(detector, batch.start, torch.tensor([0.3, 0.4, 0.5]))
    >>> found = direct(followed, detector, batch, Ball(eps=4.0, norm=2, steps=20), None)
    >>> bool(detector.score(dequantize(found.images)) < detector.score(batch.start))
    True
    """
    # An infinite score counts as the highest finite one.
    ranks = followed.ranks(detector.score(samples.x_in)).clamp_max(LOWEST + 1)
    dtype = torch.float32 if samples.start.device.type == "mps" else torch.float64
    target = (ranks - MARGIN).clamp_min(LOWEST).to(samples.start.device, dtype)
    first = _try(followed, samples, target, ball, None)
    rest = (first.mape > TOLERANCE).nonzero().flatten()
    if initial is None or len(rest) == 0:
        return first
    second = _try(followed, samples.some(rest), target[rest], ball, initial[rest])
    before, after = (
        detector.score(dequantize(images).to(samples.start)).cpu().nan_to_num(nan=torch.inf)
        for images in (first.images[rest], second.images)
    )
    return _merge(first, second, rest, after < before)


def _try(followed: Followed, samples: Samples, target: Tensor, ball: Ball, initial: Tensor | None) -> Found:
    """One attack on ranks; a rank below its target has reached it."""
    return run(
        followed.f,
        samples,
        target,
        ball,
        gradient=followed.gradient,
        tolerance=TOLERANCE,
        initial=initial,
        below=True,
    )


def _merge(first: Found, second: Found, rows: Tensor, better: Tensor) -> Found:
    """The first try, replaced by the second where that is better, with the work of both.

    Args:
        first: results for all samples.
        second: results for the samples in ``rows``.
        rows: indices into the first.
        better: (len(rows),) whether the second try is better.
    """
    at = rows[better]
    return replace(
        first,
        images=first.images.index_copy(0, at, second.images[better]),
        mape=first.mape.index_copy(0, at, second.mape[better]),
        distance=first.distance.index_copy(0, at, second.distance[better]),
        gradient_evaluations=first.gradient_evaluations.index_add(0, rows, second.gradient_evaluations),
        forward_evaluations=first.forward_evaluations.index_add(0, rows, second.forward_evaluations),
    )
