"""The direct attack: f is the detector's score, which is lowered as far as ball and budget allow."""

from dataclasses import replace

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Samples, run
from oodattack.attacks.follow import Followed
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector

FAR_BELOW = -1.0  # rank of a score below those of all x_in by their standard deviation
INNER = 5  # radius of the ball, divided by that of the ball of the third try
MIN_INNER = 0.5 / 255  # change per pixel value, on average, that the latter must allow
GRID_SHARE = 6  # steps in floating point for each on the 8-bit grid, where more steps gain a score little


def direct(
    followed: Followed, detector: Detector, samples: Samples, ball: Ball, initial: Tensor | None, restarts: int = 1
) -> Found:
    """Find images near the starts with the lowest scores; keep the best of several tries per sample.

    The first try begins at the start. Further ones cover only samples whose score is not yet `FAR_BELOW` those of x_in:
    lowering it further would hardly change a rank. The second begins at ``initial``. As steps that suit a large ball
    may be too long for the score, the third stays in a ball that is `INNER` times smaller; where it gets lower than the
    others, a fourth continues from its image in the full ball. Balls in which steps are short anyway have only two.

    Args:
        followed: the score in a form that can be attacked (`oodattack.attacks.follow`).
        detector: the detector, whose score selects the best try.
        samples: the batch.
        ball: the ball, and the number of steps of each try.
        initial: (B, 3, H, W) images in [0, 1] within the ball, such as those that the latent attack found; None for no
            try from there.
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

    def lowest(samples: Samples, within: Ball, initial: Tensor | None) -> tuple[Found, Tensor]:
        found = run(
            followed.f,
            samples,
            None,
            within,
            gradient=followed.gradient,
            grid_steps=ball.steps // GRID_SHARE if followed.gradient.passes else None,
            initial=initial,
            restarts=restarts,
        )
        scores = detector.score(dequantize(found.images).to(samples.start))
        return found, scores.cpu().nan_to_num(nan=torch.inf)

    best, scores = lowest(samples, ball, None)

    def improve(rows: Tensor, within: Ball, images: Tensor | None) -> None:
        nonlocal best
        found, after = lowest(samples.some(rows), within, images)
        best = _merge(best, found, rows, after < scores[rows])
        scores[rows] = torch.minimum(scores[rows], after)

    def open_rows() -> Tensor:
        return (followed.ranks(scores) > FAR_BELOW).nonzero().flatten()

    if initial is not None and len(rows := open_rows()):
        improve(rows, ball, initial[rows])
    inner = _inner(ball, samples.start[0].numel())
    if inner is not None and len(rows := open_rows()):
        before = scores.clone()
        improve(rows, inner, None)
        if len(rows := (scores < before).nonzero().flatten()):
            improve(rows, ball, dequantize(best.images[rows]).to(samples.start))
    return best


def _inner(ball: Ball, values: int) -> Ball | None:
    """The ball of the third try, for images of so many pixel values; None if it would be too small."""
    widest = values ** (1 / ball.norm)  # the distance between black and white
    eps = min(ball.eps, widest) / INNER
    return replace(ball, eps=eps) if eps >= MIN_INNER * widest else None


def _merge(first: Found, second: Found, rows: Tensor, better: Tensor) -> Found:
    """The results so far, replaced by those of a further try where that is better, with the work of both.

    Args:
        first: results for all samples.
        second: results for the samples in ``rows``.
        rows: indices into the first.
        better: (len(rows),) whether the further try is better.
    """
    at = rows[better]
    return replace(
        first,
        images=first.images.index_copy(0, at, second.images[better]),
        distance=first.distance.index_copy(0, at, second.distance[better]),
        gradient_evaluations=first.gradient_evaluations.index_add(0, rows, second.gradient_evaluations),
        forward_evaluations=first.forward_evaluations.index_add(0, rows, second.forward_evaluations),
    )
