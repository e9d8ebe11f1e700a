"""Measure whether a score has a gradient, and whether that is the derivative of the score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.attacks.batch import Function
from oodattack.core.ball import per_sample

RADII = (0.1, 0.03, 0.01, 0.003, 0.001)  # L2, in pixels: kinks disturb long differences, rounding short ones
AGREES_WITHIN = 0.1  # relative difference between the derivative and the quotient of differences
RESOLUTION = (
    100 * torch.finfo(torch.float32).eps
)  # relative to a score: the least difference that rounding leaves intact


@dataclass(frozen=True)
class Slope:
    """The gradient of a score at some images.

    Attributes:
        images: number of images at which it was tried.
        nonzero: number of those where it is finite and not zero.
        compared: number of those where the score changes enough along it to be compared with differences.
        agreeing: number of those where the derivative along it agrees with central differences of the score.
    """

    images: int
    nonzero: int
    compared: int
    agreeing: int

    def __str__(self) -> str:
        """In words.

        >>> str(Slope(images=8, nonzero=8, compared=7, agreeing=7))
        'on 100 % of 8 images; agrees with differences on 7 of 7'
        """
        return (
            f"on {self.nonzero / self.images:.0%} of {self.images} images; agrees with differences on"
            f" {self.agreeing} of {self.compared}"
        ).replace("%", " %")


def measure_slope(f: Function, images: Tensor) -> Slope:
    """Compare the gradient of f with central differences along it, at whichever of several distances they agree best.

    Args:
        f: images (B, 3, H, W) to scores (B,), deterministic.
        images: (B, 3, H, W) in [0, 1]; the differences may leave this range a little.

    >>> x = torch.full((2, 3, 4, 4), 0.5)
    >>> measure_slope(lambda x: x.square().sum((1, 2, 3)), x)
    Slope(images=2, nonzero=2, compared=2, agreeing=2)
    >>> measure_slope(lambda x: x.round().sum((1, 2, 3)), x)
    Slope(images=2, nonzero=0, compared=0, agreeing=0)
    """
    count = len(images)
    gradient = _gradient(f, images)
    length = gradient.flatten(1).norm(dim=1).double()
    nonzero = length > 0
    direction = gradient / per_sample(length.clamp_min(torch.finfo(torch.float32).tiny), gradient).to(gradient)
    compared, agreeing = torch.zeros(2, count, dtype=torch.bool, device=images.device)
    for radius in RADII if bool(nonzero.any()) else ():
        # With a gradient, so that a view of a network takes the same path as above (`oodattack.detectors.View`).
        ahead, behind = (_values(f, images + sign * radius * direction) for sign in (1, -1))
        rise = 2 * radius * length
        seen = nonzero & (rise > RESOLUTION * torch.maximum(ahead.abs(), behind.abs()))
        compared |= seen
        agreeing |= seen & ((ahead - behind - rise).abs() <= AGREES_WITHIN * rise)
    return Slope(count, int(nonzero.sum()), int(compared.sum()), int(agreeing.sum()))


def _values(f: Function, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return f(x.detach().requires_grad_(True)).detach().double().to(x.device)


def _gradient(f: Function, images: Tensor) -> Tensor:
    """The gradients (B, 3, H, W); zero where there is none or it is not finite."""
    x = images.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(f(x).sum(), x)
    except (RuntimeError, TypeError):  # the score does not depend on x in autograd, or NumPy rejected the tensor
        return torch.zeros_like(images)
    finite = gradient.flatten(1).isfinite().all(1)
    return torch.where(finite[:, None, None, None], gradient, 0)
