"""A search on the 8-bit grid for objectives without a useful gradient, such as the lengths of encoded images."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball
from oodattack.core.ball import distance
from oodattack.core.pixels import LEVELS, as_levels, ball_in_levels

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps images (b, 3, H, W) uint8 and their indices (b,) in the batch to values (b,), the lower the better."""

COARSE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # levels between those that whole images are rounded to at first
GROWTH, DECAY, SMALLEST = 1.5, 0.95, 2e-3  # of the area of a change: after one that helped, after one that did not
AREA_RANGE, ASPECT_RANGE = 12.0, 2.7  # ratios of the largest to the smallest
MAX_NOISE = 5  # bits
MAX_STEP = 40.0  # levels


def search_grid(
    levels: Tensor,
    objective: Objective,
    ball: Ball,
    center: Tensor,
    generators: Sequence[torch.Generator],
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Change rectangles of 8-bit images as long as that lowers an objective, within the ball.

    The changes are those that lossless codecs respond to, each in its own way: noise, in colour or in grey; rounding
    to fewer levels, which all but wavelet codecs exploit; interpolation of every other row or column, which wavelet
    codecs exploit; less colour; and a return to the centre. Those of whole images are tried first. Afterwards the
    rectangles are random; they grow after a change that helped and shrink after one that did not.

    Args:
        levels: (B, 3, H, W) uint8, inside the balls.
        objective: what is lowered. It may add terms, such as the distance of an NLL from its target.
        ball: the ball; its steps are evaluations of the objective.
        center: (B, 3, H, W) centres of the balls, in [0, 1].
        generators: one CPU generator per sample.
        tolerance: value at which a sample is finished.

    Returns:
        The best images (B, 3, H, W) uint8 and their values (B,). No value is above that of `levels`.

    >>> dark = lambda images, rows: images.double().mean((1, 2, 3))
    >>> grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    >>> found, value = search_grid(grey, dark, Ball(1.0, 2, 50), grey / 255, [torch.Generator().manual_seed(0)])
    >>> bool(value < 128), bool((found / 255 - grey / 255).norm() <= 1)
    (True, True)
    """
    rows = torch.arange(len(levels))
    home = as_levels(center.cpu())
    budget = ball_in_levels(torch.full((len(levels),), ball.eps, dtype=torch.float64), ball.norm)
    best = levels.cpu().clone()
    values = objective(best, rows).double().cpu()
    area = torch.ones(len(levels))
    first = list(_coarse(best))
    for step in range(ball.steps - 1):
        rows = rows[values[rows] > tolerance]
        if len(rows) == 0:
            break
        if step < len(first):
            tried = first[step][rows]
        else:
            changes = [_change(best[i].double(), home[i], float(area[i]), generators[i]) for i in rows.tolist()]
            tried = torch.stack(changes).round().clamp(0, LEVELS).to(torch.uint8)
        inside = distance(tried, home[rows], ball.norm) <= budget[rows]
        value = torch.full((len(rows),), math.inf, dtype=torch.float64)
        if bool(inside.any()):
            value[inside] = objective(tried[inside], rows[inside]).double().cpu()
        helped = value < values[rows]
        best[rows[helped]], values[rows[helped]] = tried[helped], value[helped]
        if step >= len(first):
            area[rows] = torch.where(helped, area[rows] * GROWTH, area[rows] * DECAY).clamp(SMALLEST, 1)
    return best, values


def _coarse(levels: Tensor) -> Iterator[Tensor]:
    """Whole images rounded to multiples of fewer levels, and then interpolated along no axis, rows or columns."""
    for step in COARSE:
        rounded = ((levels.double() / step).round() * step).clamp(0, LEVELS)
        for image in (rounded, _interpolate(rounded), _interpolate(rounded.mT).mT):
            yield image.to(torch.uint8)


def _change(image: Tensor, home: Tensor, area: float, generator: torch.Generator) -> Tensor:
    """A random change of a random rectangle of an image (3, H, W) in levels; the area is a share of the image."""
    kind, whole, size, aspect, top, left, amount, grain = torch.rand(8, generator=generator).tolist()
    area = 1.0 if whole < area / 2 else area * AREA_RANGE**-size
    height, width = image.shape[1:]
    ratio = ASPECT_RANGE ** (aspect - 0.5)
    h = min(height, max(1, round(height * math.sqrt(area) * ratio)))
    w = min(width, max(1, round(width * math.sqrt(area) / ratio)))
    i, j = int(top * (height - h + 1)), int(left * (width - w + 1))
    part = image[:, i : i + h, j : j + w]
    unit = 2 ** int(grain * MAX_NOISE)  # noise in multiples of it leaves the number of distinct levels small
    noise = max(1, 2 ** int(amount * MAX_NOISE) // unit)
    step = 1 + MAX_STEP**amount
    grey = part.mean(0, keepdim=True)
    match int(kind * 6):
        case 0:
            new = part + unit * torch.randint(-noise, noise + 1, part.shape, generator=generator)
        case 1:
            new = part + unit * torch.randint(-noise, noise + 1, part.shape[1:], generator=generator)
        case 2:
            new = (part / step).round() * step
        case 3:
            new = grey + (part - grey) * amount
        case 4:
            new = _interpolate(part) if amount < 0.5 else _interpolate(part.mT).mT
        case _:
            new = home[:, i : i + h, j : j + w]
    changed = image.clone()
    changed[:, i : i + h, j : j + w] = new
    return changed


def _interpolate(image: Tensor) -> Tensor:
    """Every other column replaced by the mean of its neighbours, rounded down."""
    even = image[..., ::2]
    new = image.clone()
    following = torch.cat([even[..., 1:], even[..., -1:]], dim=-1)[..., : image.shape[-1] // 2]
    new[..., 1::2] = ((even[..., : image.shape[-1] // 2] + following) / 2).floor()
    return new
