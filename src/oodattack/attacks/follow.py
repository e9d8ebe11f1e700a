"""How an attack follows a detector's score downhill: as ranks, by its gradient or by differences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.attacks.batch import Function
from oodattack.attacks.differences import Differences
from oodattack.attacks.slope import Slope, measure_slope
from oodattack.core.gradient import Autograd, Gradient, Spsa
from oodattack.core.metrics import as_matrix
from oodattack.detectors import Detector
from oodattack.detectors.ranks import Ranks


@dataclass(frozen=True)
class Followed:
    """A detector's score in the form that the direct attack descends.

    Attributes:
        f: images (B, 3, H, W) to ranks (B,).
        gradient: the source of its gradients.
        how: the same in words.
        ranks: the map from scores to ranks.
        slope: what is known about the score's own gradient.
    """

    f: Function
    gradient: Gradient
    how: str
    ranks: Ranks
    slope: Slope


def follow(detector: Detector, images: Tensor, scores: Tensor) -> Followed:
    """Choose how to follow a score: by its gradient if that exists on half of the images, else by differences.

    A random score is followed in expectation over its draws (EOT, Athalye et al. 2018): every evaluation is a mean over
    new draws. The attack keeps the image with the lowest mean that it saw, which is too low by luck; scores are
    therefore computed with other draws (`Detector.score`), on which that luck has no influence.

    Args:
        detector: a fitted detector.
        images: (B, 3, H, W) in [0, 1], a few images at which the gradient is tried.
        scores: (N,) scores of in-distribution images, which define the ranks.

    Raises:
        InputError: if none of these scores is finite.

    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> follow(Brightness(), torch.rand(2, 3, 4, 4), torch.tensor([0.3, 0.4, 0.5])).how
    'gradient of the score (on 100 % of 2 images; agrees with differences on 2 of 2)'
    """
    ranks, judge, draws = Ranks(scores), detector.judge, detector.draws
    evaluate = detector.sample if draws is None else _Expected(detector.sample, draws)
    slope = measure_slope(evaluate if draws is None else _Expected(detector.sample, draws, renew=False), images)

    def f(images: Tensor) -> Tensor:
        return ranks(evaluate(images))

    if 2 * slope.nonzero >= slope.images:
        over = "" if draws is None else ", in expectation over its draws"
        return Followed(f, Autograd(), f"gradient of the score{over} ({slope})", ranks, slope)
    if judge is not None and _reaches_pixels(detector, images):
        differences = Differences(detector.reads, lambda reads: ranks(judge(reads)))
        return Followed(
            f, differences, f"differences of the score along what it reads (gradient {slope})", ranks, slope
        )
    return Followed(f, Spsa(directions=8), f"SPSA on the image (gradient {slope})", ranks, slope)


def _reaches_pixels(detector: Detector, images: Tensor) -> bool:
    """Whether what the detector reads has a gradient with respect to the images, which a pipeline may lack."""
    return measure_slope(lambda x: as_matrix(detector.reads(x)).sum(1), images[:1]).nonzero > 0


class _Expected:
    """The mean of several samples of a random score, with its own sequence of seeds.

    Args:
        sample: images (B, 3, H, W) to scores (B,), with draws from torch's global generator.
        draws: number of samples.
        renew: whether every call has new draws.
    """

    def __init__(self, sample: Function, draws: int, *, renew: bool = True) -> None:
        self.sample, self.draws, self.renew = sample, draws, renew
        self.generator = torch.Generator().manual_seed(0)
        self.seed = 0

    def __call__(self, images: Tensor) -> Tensor:
        if self.renew:
            self.seed = int(torch.randint(2**62, (), generator=self.generator))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return torch.stack([self.sample(images) for _ in range(self.draws)]).mean(0)
