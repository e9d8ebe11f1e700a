"""The 8-bit grid: the pixel values that an image file can store.

An attack that works in float32 but fails after saving is no attack, so the result that counts is an image with 256
levels per channel. Rounding moves each pixel by up to 1/510, which can move the image out of the eps-ball.
"""

import math

import torch
from torch import Tensor

from oodattack.core.ball import check_norm, distance, wide
from oodattack.core.errors import InputError

LEVELS = 255
ROUNDING = 1e-6  # relative error of a distance in float32


def quantize(x: Tensor) -> Tensor:
    """Nearest 8-bit image: uint8, same shape, from pixels in [0, 1].

    Raises:
        TypeError: for pixels that are not floating-point numbers.

    >>> quantize(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point pixels in [0, 1], got {x.dtype}")
    return (x * LEVELS).round().clamp(0, LEVELS).to(torch.uint8)


def dequantize(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels in [0, 1] of an 8-bit image.

    >>> dequantize(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [0.0, 1.0]
    """
    return levels.to(dtype) / LEVELS


def to_grid(x: Tensor, start: Tensor, eps: Tensor, norm: float) -> Tensor:
    """An 8-bit image close to ``x`` that is inside the ball around ``start``.

    Every pixel is rounded to its nearest level. If the image then leaves the ball, pixels that were rounded away from
    the start are rounded towards it instead: first those that regain the most distance for the least extra rounding
    error, and no more of them than needed. If that is not enough, which happens only if the start is off the grid,
    pixels are set to the level nearest to the start.

    Args:
        x: (B, 3, H, W) images inside ball and box, pixels in [0, 1].
        start: (B, 3, H, W) centres of the balls.
        eps: (B,) radii.
        norm: 1, 2 or infinity.

    Returns:
        (B, 3, H, W) uint8. `dequantize` maps it to an image inside the ball, up to float32 rounding.

    Raises:
        InputError: if a ball contains no 8-bit image, because its start is off the grid and eps is too small.

    >>> start = torch.full((1, 3, 1, 1), 100 / 255)
    >>> to_grid(start + 0.6 / 255, start, torch.tensor([0.6 / 255]), norm=float("inf")).flatten().tolist()
    [100, 100, 100]
    """
    norm = check_norm(norm)
    check_grid(start, eps, norm)
    x, x0 = as_levels(x), as_levels(start)
    budget = ball_in_levels(eps, norm)
    nearest = x.round().clamp(0, LEVELS)
    for i in (distance(nearest, x0, norm) > budget).nonzero().flatten().tolist():
        nearest[i] = _shrink(x[i], x0[i], nearest[i], float(budget[i]), norm)
    return nearest.to(torch.uint8)


def check_grid(start: Tensor, eps: Tensor, norm: float) -> None:
    """Raise if some ball around ``start`` contains no 8-bit image.

    Checking the grid point nearest to the start suffices: it is nearest in every coordinate, hence in every norm.

    Raises:
        InputError: naming the first such sample.

    >>> check_grid(torch.full((1, 3, 1, 1), 0.5), torch.tensor([0.1]), norm=2)
    """
    x0 = as_levels(start)
    missed = distance(x0.round(), x0, norm) > eps * LEVELS * (1 + ROUNDING)
    if bool(missed.any()):
        i = int(missed.nonzero()[0])
        raise InputError(
            f"no 8-bit image is within eps = {float(eps[i]):g} of start {i}, because that start is not on the"
            " 8-bit grid; round it first (oodattack.core.pixels.quantize), raise eps, or ask for pixels=None"
        )


def ball_in_levels(eps: Tensor, norm: float) -> Tensor:
    """Radii (B,) in levels, such that images inside them are still inside the ball when decoded to float32.

    Rounding must not cost a Linf radius of 8/255 its eighth level.

    >>> ball_in_levels(torch.tensor([8 / 255]), norm=float("inf")) >= 8
    tensor([True])
    """
    return eps * LEVELS * (1 + ROUNDING if norm == math.inf else 1 - ROUNDING)


def as_levels(pixels: Tensor) -> Tensor:
    """Pixels (B, ...) in units of levels; those that are on the grid up to float rounding become whole numbers."""
    levels = wide(pixels) * LEVELS
    return torch.where((levels - levels.round()).abs() < 1e-4, levels.round(), levels)


def _shrink(x: Tensor, x0: Tensor, nearest: Tensor, budget: float, norm: float) -> Tensor:
    """Levels inside the ball: ``nearest``, with as few pixels as needed moved inwards or to the start's level.

    One sample, everything in units of levels.
    """
    home = x0.round()
    # Pixels that were rounded away from the start go back by one level.
    inward = torch.where((nearest - x0).abs() > (x - x0).abs(), nearest - (nearest - x0).sign(), nearest)
    levels = nearest
    for closer in (inward, home):
        before, after = (levels - x0).abs(), (closer - x0).abs()
        if float(torch.linalg.vector_norm(before, norm)) <= budget:
            break
        if norm == math.inf:
            levels = torch.where(before > budget, closer, levels)
            continue
        gain = (before**norm - after**norm).flatten()
        error = ((closer - x) ** 2 - (levels - x) ** 2).flatten().clamp_min(1e-12)
        order = (gain / error).argsort(descending=True, stable=True)
        left = (before**norm).sum() - gain[order].clamp_min(0).cumsum(0)
        chosen = order[: int((left > budget**norm).sum()) + 1]
        chosen = chosen[gain[chosen] > 0]
        levels = levels.flatten().index_copy(0, chosen, closer.flatten()[chosen]).view_as(x)
    return levels
