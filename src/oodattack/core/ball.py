"""The set of allowed images: ``{x : ‖x - x0‖_p <= eps}``, alone or within the pixel box ``[0, 1]``.

Distances, projections and random points. Everything is per sample: ``eps`` has one entry per image, and no image
affects another.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.core.errors import InputError

NORMS = (1.0, 2.0, math.inf)


def check_norm(norm: float) -> float:
    """Return ``norm`` if it is 1, 2 or infinity.

    Raises:
        InputError: for any other norm.

    >>> check_norm(2)
    2.0
    """
    if isinstance(norm, int | float) and float(norm) in NORMS:
        return float(norm)
    raise InputError(f"expected a norm of 1, 2 or inf, got {norm!r}")


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,), one per sample, in the shape and type that broadcast against ``like`` (B, ...).

    >>> per_sample(torch.ones(2), torch.ones(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return values.to(like).view((-1,) + (1,) * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (B,), for tensors (B, ...) of the same shape.

    >>> dot(torch.ones(2, 3, 4), torch.ones(2, 3, 4)).tolist()
    [12.0, 12.0]
    """
    if a.device.type == "cpu":  # where `vecdot` stores all products before it sums them
        return torch.stack([torch.dot(u, v) for u, v in zip(a.flatten(1), b.flatten(1), strict=True)])
    product: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return product


def distance(x: Tensor, center: Tensor, norm: float) -> Tensor:
    """Distance ``‖x - center‖_p`` of every sample, computed in float64 where the device has it.

    Args:
        x: (B, ...) images.
        center: (B, ...) images of the same shape.
        norm: 1, 2 or infinity.

    Returns:
        (B,) distances, in pixels of [0, 1].

    >>> distance(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), norm=1).item()
    12.0
    """
    length: Tensor = torch.linalg.vector_norm((wide(x) - wide(center)).flatten(1), check_norm(norm), dim=1)
    return length


def project(
    x: Tensor, center: Tensor, eps: Tensor, norm: float, box: tuple[float, float] | None = (0.0, 1.0)
) -> Tensor:
    """The nearest point (in L2) to ``x`` that is inside both the ball and the pixel box.

    With ``d = x - center`` and ``b`` the room that the box leaves in the direction of d, the optimality conditions give
    ``|x' - center| = min(s * |d|, b)`` for L2 and ``min(max(|d| - t, 0), b)`` for L1, with one scalar s or t per sample
    that puts the point on the sphere; for Linf both sets are boxes. Clipping to the ball and then to the box also ends
    inside both, but farther from x.

    Args:
        x: (B, ...) points to project.
        center: (B, ...) centres of the balls, inside the box.
        eps: (B,) radii, pixels in [0, 1]; with infinity, only the box applies.
        norm: 1, 2 or infinity.
        box: smallest and largest pixel value, or None to project onto the ball alone.

    Returns:
        (B, ...) the projections; points already inside are returned unchanged.

    >>> x = project(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([1.0]), norm=2)
    >>> x.flatten().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    inside = x if box is None else x.clamp(*box)
    if norm == math.inf:
        reach = per_sample(eps, x)
        return inside.clamp(center - reach, center + reach)
    move = (inside - center).flatten(1)
    length = lengths(move, norm)
    outside_ball = length > eps
    if not bool(outside_ball.any()):
        return inside
    if norm == 2:
        cut = nonzero(x - inside)
        size, room = x.flatten()[cut] - center.flatten()[cut], move.flatten()[cut]
        scale = torch.where(outside_ball, _l2_scale(size, room, cut // move.shape[1], length, eps), 1)
        projected = torch.lerp(center, x, per_sample(scale, x))  # a scale of 1 returns x itself
    else:
        delta = (x - center).flatten(1)
        size = delta.abs()
        room = torch.full_like(delta, math.inf)
        if box is not None:
            room = torch.where(delta > 0, (box[1] - center).flatten(1), (center - box[0]).flatten(1))
        shrunk = (size - _l1_threshold(size, room, eps).to(x.dtype)[:, None]).clamp_min(0)
        projected = center + (torch.minimum(shrunk, room) * delta.sign()).view_as(x)
        # Exact at 0 and 1, and faster than `where`.
        projected = torch.lerp(inside, projected, per_sample(outside_ball, x))
    return (
        projected if box is None else projected.clamp_(*box)
    )  # for rounding, and pixels that the scale leaves outside


def sample(center: Tensor, eps: Tensor, norm: float, generators: Sequence[torch.Generator]) -> Tensor:
    """One point per sample, uniform in the ball (Algorithm 1, line 1); the pixel box is not applied.

    Uniform means by volume: an L2 radius is ``eps * u^(1/n)``, and an L1 point is built from n + 1 exponential
    variables. A ball with ``eps = infinity`` has no uniform distribution; the point is then uniform in the pixel box.

    Args:
        center: (B, ...) centres.
        eps: (B,) radii.
        norm: 1, 2 or infinity.
        generators: one CPU generator per sample, so that draws do not depend on the rest of the batch.

    Returns:
        (B, ...) points with the dtype and device of ``center``.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = sample(torch.zeros(1, 3, 8, 8), torch.tensor([2.0]), 2, [generator])
    >>> bool(distance(x, torch.zeros(1, 3, 8, 8), 2) <= 2)
    True
    """
    points = []
    for x0, radius, generator in zip(center, eps.tolist(), generators, strict=True):
        shape, n = x0.shape, x0.numel()
        if math.isinf(radius):
            points.append(torch.rand(shape, generator=generator, dtype=torch.float64))
            continue
        if norm == math.inf:
            xi = torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1
        elif norm == 2:
            gauss = torch.randn(n, generator=generator, dtype=torch.float64)
            u = torch.rand((), generator=generator, dtype=torch.float64)
            xi = gauss / gauss.norm() * u ** (1 / n)
        else:
            exponentials = torch.empty(n + 1, dtype=torch.float64).exponential_(generator=generator)
            signs = torch.randint(2, (n,), generator=generator) * 2 - 1
            xi = signs * exponentials[:-1] / exponentials.sum()
        points.append(x0.detach().cpu().double() + radius * xi.view(shape))
    return torch.stack(points).to(center)


def lengths(delta: Tensor, norm: float) -> Tensor:
    """The norms (B,) of the rows of ``delta`` (B, N): taken in float32 over short pieces and combined in float64.

    As accurate as float64 throughout, without a float64 copy of ``delta``.
    """
    piece = math.gcd(delta.shape[1], 4096)
    pieces = delta.reshape(len(delta), delta.shape[1] // piece, piece)
    length: Tensor = torch.linalg.vector_norm(wide(torch.linalg.vector_norm(pieces, norm, dim=2)), norm, dim=1)
    return length


def _l2_scale(size: Tensor, room: Tensor, sample: Tensor, length: Tensor, eps: Tensor) -> Tensor:
    """The s <= 1 for which ``s * (x - center)``, clipped to the box, has length eps: (B,).

    An active-set search that ends at the exact s: pixels that hit the box keep their room, the others share the rest
    of eps. s only grows, so a pixel that has hit the box stays there; and since s never exceeds 1, only pixels that
    are outside the box in x can hit it. They are few, so the search covers them alone.

    Args:
        size: (M,) ``x - center`` at the pixels of all samples that are outside the box in x.
        room: (M,) the same, clipped to the box.
        sample: (M,) the sample that each of these pixels belongs to.
        length: (B,) lengths of ``x - center`` clipped to the box.
        eps: (B,) radii.
    """
    size, room = wide(size).square(), wide(room).square()
    budget = eps.to(size).square()
    always_free = length.square().index_add(0, sample, -room).clamp_min(0)
    at_box = torch.zeros_like(size, dtype=torch.bool)
    scale = torch.zeros_like(budget)
    while True:
        spent = torch.zeros_like(budget).index_add_(0, sample, torch.where(at_box, room, 0))
        free = always_free.index_add(0, sample, torch.where(at_box, 0, size))
        share = (budget - spent).clamp_min(0) / free.clamp_min(torch.finfo(free.dtype).tiny)
        scale = torch.maximum(scale, share.clamp_max(1))  # with all pixels at the box, only rounding remains
        hits = at_box | (scale[sample] * size > room)
        if bool((hits == at_box).all()):
            return scale.sqrt()
        at_box = hits


def _l1_threshold(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """The t >= 0 with ``sum(min(max(size - t, 0), room)) = eps``: (B,).

    The sum falls piecewise linearly in t, with a corner where a pixel reaches zero (t = size) and one where it leaves
    the box (t = size - room). Sort the corners, accumulate the slopes, find the piece and solve for t on it.
    """
    size, room = wide(size), wide(room)
    room = torch.minimum(room, size)
    corners, order = torch.cat([size - room, size], dim=1).sort(dim=1)
    slope_change = torch.ones_like(corners)
    slope_change[:, : size.shape[1]] = -1
    slopes = slope_change.gather(1, order).cumsum(1)
    drops = slopes[:, :-1] * corners.diff(dim=1)
    values = room.sum(1, keepdim=True) + torch.cat([torch.zeros_like(drops[:, :1]), drops.cumsum(1)], dim=1)
    last_above = (values > eps.to(size)[:, None]).sum(1, keepdim=True).sub(1).clamp_min(0)
    corner, value = corners.gather(1, last_above), values.gather(1, last_above)
    slope = slopes.gather(1, last_above).clamp_max(-1)
    threshold = (corner + (eps.to(size)[:, None] - value) / slope).clamp_min(0).squeeze(1)
    return torch.where(eps > 0, threshold, math.inf)  # eps = 0 is the centre, however the sums round


def nonzero(values: Tensor) -> Tensor:
    """Indices of the non-zero values in the flattened tensor, in order: (M,), int64."""
    flags = values.flatten().bool()  # several times faster than a comparison
    if flags.device.type != "cpu":
        return flags.nonzero().squeeze(1)
    return torch.from_numpy(flags.numpy().nonzero()[0])  # several times faster than `Tensor.nonzero`


def wide(x: Tensor) -> Tensor:
    """The same numbers in float64, or in float32 on devices without it (MPS).

    >>> wide(torch.ones(1)).dtype
    torch.float64
    """
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)
