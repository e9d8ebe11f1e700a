"""How an attack follows a detector's score downhill: as ranks, by its gradient or by differences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.attacks.batch import Function
from oodattack.attacks.differences import Differences
from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd, Gradient, Spsa
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
    """

    f: Function
    gradient: Gradient
    how: str
    ranks: Ranks


def follow(detector: Detector, images: Tensor, scores: Tensor) -> Followed:
    """Choose how to follow a score: by its gradient if it has one, else by differences.

    Args:
        detector: a fitted detector.
        images: (B, 3, H, W) in [0, 1], a few images at which the gradient is tried.
        scores: (N,) scores of in-distribution images, which define the ranks.

    Raises:
        InputError: if none of these scores is finite, or the score cannot be followed.

    >>> class Brightness(Detector):
    ...     def score(self, images: Tensor) -> Tensor:
    ...         return self.reads(images)[:, 0]
    ...     def reads(self, images: Tensor) -> Tensor:
    ...         return images.mean((1, 2, 3))[:, None]
    >>> follow(Brightness(), torch.rand(2, 3, 4, 4), torch.tensor([0.3, 0.4, 0.5])).how
    'gradient of the score'
    """
    ranks, judge = Ranks(scores), detector.judge

    def f(images: Tensor) -> Tensor:
        return ranks(detector.score(images) if judge is None else judge(detector.reads(images)))

    if _has_gradient(f, images):
        return Followed(f, Autograd(), "gradient of the score", ranks)
    if judge is not None:
        differences = Differences(detector.reads, lambda reads: ranks(judge(reads)))
        return Followed(f, differences, "differences of the score along what it reads", ranks)
    if detector.unfollowed is not None:
        raise InputError(detector.unfollowed)
    return Followed(f, Spsa(directions=8), "SPSA on the image", ranks)


def _has_gradient(f: Function, images: Tensor) -> bool:
    """Whether f has a finite gradient that is not zero everywhere."""
    x = images.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(f(x).sum(), x)
    except (RuntimeError, TypeError):  # the score does not depend on x in autograd, or NumPy rejected the tensor
        return False
    return bool(gradient.isfinite().all() and gradient.any())
