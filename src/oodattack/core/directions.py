"""Step directions: the steepest, which the paper calls h, and its component along the surface of the ball."""

import math

import torch
from torch import Tensor

from oodattack.core.ball import dot, lengths, nonzero, per_sample


def steepest(gradient: Tensor, norm: float) -> Tensor:
    """The paper's h: the sign of the gradient for Linf, the gradient divided by its own L2 norm for L2.

    The paper defines no h for L1, where the steepest direction is a single pixel; there the L2 form is used.

    Args:
        gradient: (B, ...) gradients.
        norm: 1, 2 or infinity.

    Returns:
        (B, ...) directions; a gradient of zero stays zero.

    >>> steepest(torch.tensor([[3.0, -4.0]]), norm=2).tolist()
    [[0.6000000238418579, -0.800000011920929]]
    """
    if norm == math.inf:
        return gradient.sign()
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    shortest = 1e4 * math.sqrt(torch.finfo(length.dtype).tiny)  # below it, squares underflow
    out_of_range = ~((length > shortest) & length.isfinite())
    if bool(out_of_range.any()):
        largest = gradient.flatten(1).abs().amax(1)
        gradient = gradient / per_sample(torch.where(out_of_range & (largest > 0), largest, 1), gradient)
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        length = torch.where(length > 0, length, 1)
    return gradient / per_sample(length, gradient)


def binding(x: Tensor, center: Tensor, eps: Tensor, norm: float) -> Tensor:
    """How far the ball constrains a point: 1 on the sphere, else 0 (L1, L2); fraction of pixels at the bound (Linf).

    Args:
        x: (B, ...) points.
        center: (B, ...) centres of the balls.
        eps: (B,) radii.
        norm: 1, 2 or infinity.

    Returns:
        (B,) from 0 to 1, in the dtype of eps. Points within a thousandth of eps of the surface (and float rounding)
        count as on it.

    >>> x, center, eps = torch.tensor([[0.1, 0.3]]), torch.zeros(1, 2), torch.tensor([0.3])
    >>> binding(x, center, eps, 2).item(), binding(x, center, eps, math.inf).item()
    (1.0, 0.5)
    """
    delta, number = (x - center).flatten(1), torch.finfo(x.dtype)
    surface = (eps * (1 - 1e-3) - number.eps).clamp_min(number.tiny)
    if norm == math.inf:
        beyond = delta.abs_().sub_(per_sample(surface, delta)).clamp_min_(0)
        return beyond.bool().sum(1).to(eps) / delta.shape[1]
    return (lengths(delta, norm) >= surface).to(eps)


def tangent(h: Tensor, x: Tensor, center: Tensor, eps: Tensor, norm: float) -> Tensor:
    """The tangential component of a direction of ascent h, for a step along the surface of an L1 or L2 ball.

    A step along -h from a point on the sphere leaves the ball, and the projection removes the outward component. If
    the optimizer scales each pixel separately (Adam), the projection does not undo the outward step exactly, and the
    fixed point is not the optimum. Without its outward component, h vanishes exactly where the optimality conditions
    hold: for L2 where -h is normal to the sphere; for L1 where ``-h = t * sign(x - center)`` on the pixels that have
    moved and ``|h| <= t`` on the others. For Linf, and inside a ball, h is returned as it is.

    Args:
        h: (B, ...) directions of ascent.
        x: (B, ...) points in ball and pixel box.
        center: (B, ...) centres of the balls.
        eps: (B,) radii.
        norm: 1, 2 or infinity.

    Returns:
        (B, ...) directions of ascent, no longer than h.

    >>> h, x = torch.tensor([[-1.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    >>> tangent(h, x, torch.zeros(1, 2), torch.tensor([0.5]), norm=2).tolist()
    [[0.0, -1.0]]
    """
    if norm == math.inf:
        return h
    delta = (x - center).flatten(1)
    on_sphere = lengths(delta, norm) >= eps * (1 - 1e-5)
    if not bool(on_sphere.any()):
        return h
    up = h.flatten(1)
    # Pixels blocked by the box are excluded. |sign(h) - x + 1/2| reaches 3/2 only where x is 0 and h > 0, or x is 1 and
    # h < 0 (within 1e-6). Combining four comparisons would be the most expensive operation here.
    push = h.sign().sub_(x).add_(0.5)
    blocked = nonzero(torch.hardshrink(push, 1.5 - 1e-6, out=push))
    delta = delta.flatten().index_fill_(0, blocked, 0).view_as(up)
    if norm == 2:
        outward = -dot(up, delta) / dot(delta, delta).clamp_min(1e-30)
        along = torch.addcmul(up, delta, outward.clamp_min(0)[:, None])
    else:
        moved = delta != 0
        pull = -up * delta.sign()
        outward = (pull.sum(1, keepdim=True) / moved.sum(1, keepdim=True).clamp_min(1)).clamp_min(0)
        still = up.sign() * (up.abs() - outward).clamp_min(0)
        along = torch.where(moved, up + outward * delta.sign(), still)
    along = along.flatten().index_fill_(0, blocked, 0).view_as(up)
    return (along if bool(on_sphere.all()) else torch.lerp(up, along, on_sphere[:, None].to(up))).view_as(h)
