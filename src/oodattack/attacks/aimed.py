"""The aimed attack: a score as near as possible to that of x_in, for detectors that also flag abnormally low scores."""

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Samples
from oodattack.core.ball import distance
from oodattack.core.pixels import quantize
from oodattack.detectors import Detector
from oodattack.detectors.ranks import Ranks


@torch.no_grad()
def aimed(detector: Detector, ranks: Ranks, samples: Samples, ball: Ball, lowest: Tensor) -> Found:
    """Find images near the starts whose scores equal those of x_in, given images with lower ones.

    An image with some pixels of the start and the others of its image with a low score lies in the ball and on the
    8-bit grid, as both do. Which pixels come first is random. Their number is found by bisection: between one at which
    the score is still above that of x_in, and one at which it is below. If even the low score is above, the result is
    that image.

    Args:
        detector: the detector.
        ranks: the map from its scores to ranks, in which the nearest image is chosen.
        samples: the batch.
        ball: the ball.
        lowest: (B, 3, H, W) images in [0, 1] within the ball, such as those that the direct attack found.

    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> detector, batch = Brightness(), Samples(torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 3, 4, 4), [0])
    >>> ranks, black = Ranks(torch.tensor([0.4, 0.5, 0.6])), torch.zeros(1, 3, 4, 4)
    >>> found = aimed(detector, ranks, batch, Ball(eps=float("inf"), norm=2, steps=1), black)
    >>> found.images.double().mean().item() / 255
    0.5
    """
    start = samples.start
    order = torch.stack(
        [torch.rand(start[0].shape, generator=torch.Generator().manual_seed(seed)) for seed in samples.seeds]
    ).to(start)

    def above(images: Tensor) -> Tensor:
        return (ranks(detector.score(images)).cpu() - wanted).nan_to_num(nan=torch.inf)

    wanted = ranks(detector.score(samples.x_in)).cpu()
    best, error = lowest.clone(), above(lowest)
    reached, error = error < 0, error.abs()
    fewest, most = torch.zeros(len(start)), torch.ones(len(start))  # shares of the pixels that come from `lowest`
    halvings = start[0].numel().bit_length()
    for _ in range(halvings):
        middle = (fewest + most) / 2
        images = torch.where(order < middle.to(start)[:, None, None, None], lowest, start)
        excess = above(images)
        better = (reached & (excess.abs() < error)).to(start.device)
        best, error = torch.where(better[:, None, None, None], images, best), torch.minimum(error, excess.abs())
        fewest, most = torch.where(excess > 0, middle, fewest), torch.where(excess > 0, most, middle)
    return Found(
        images=quantize(best).cpu(),
        mape=torch.full((len(best),), torch.nan),
        distance=distance(best, start, ball.norm).cpu(),
        gradient_evaluations=torch.zeros(len(best), dtype=torch.int64),
        forward_evaluations=torch.full((len(best),), halvings + 2),
    )
