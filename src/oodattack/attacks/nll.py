"""The attack on a likelihood: f is a flow's negative log-likelihood, and the target any number (Section II-C).

A single number needs no matching of vectors: an image on the other side of the target suffices. On a path from the
start to it, along which one pixel value after another changes by one level, the likelihood takes the target up to the
effect of one such change.
"""

import torch
from torch import Tensor

from oodattack.attacks.batch import Ball, Found, Function, Samples
from oodattack.core.ball import distance, per_sample, project
from oodattack.core.metrics import mape
from oodattack.core.pixels import LEVELS, dequantize, to_grid
from oodattack.networks import Glow

CLOSE_ENOUGH = 2e-4  # bits per dimension
HALVINGS = 16  # at most; each is a forward pass
FIRST_STEP, LONGER, SHORTER = 0.3, 2.0, 0.25  # of the radius of the ball; after a step that helped, or did not


def nll(model: Glow, samples: Samples, ball: Ball, target: Tensor | None = None) -> Found:
    """Find images near the starts that have a given negative log-likelihood under a flow.

    Where the target lies beyond the values that are reached within the ball and the steps, the nearest one is kept.

    Args:
        model: the flow.
        samples: the batch.
        ball: the ball and the number of gradient evaluations; at most `HALVINGS` + 1 forward passes follow.
        target: negative log-likelihoods (B,) to reach, in bits per dimension; by default those of x_in.

    >>> model = Glow(8, steps=1, levels=1, width=4)
    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0), model(torch.rand(16, 3, 8, 8))  # initialises the activation normalisation
    >>> batch = Samples(torch.rand(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5), [0, 1])
    >>> found = nll(model.eval(), batch, Ball(eps=2.0, norm=2, steps=20))
    >>> found.images.dtype, bool((found.distance <= 2.0001).all())
    (torch.uint8, True)
    """
    if target is None:
        with torch.no_grad():
            target = model.bits_per_dim(samples.x_in)
    end, sign, gradients = _cross(model.bits_per_dim, samples.start, target, ball)
    image, value, forwards = _halve(model.bits_per_dim, samples.start, end, target, sign, ball)
    return Found(
        image.cpu(),
        mape(value[:, None], target[:, None]).cpu(),
        distance(dequantize(image), samples.start, ball.norm).cpu(),
        gradients.cpu(),
        forwards.cpu(),
    )


def _cross(f: Function, start: Tensor, target: Tensor, ball: Ball) -> tuple[Tensor, Tensor, Tensor]:
    """Move from the starts until f is on the other side of the target.

    Steps along the gradient become longer as long as they help, because curvatures differ by orders of magnitude
    between a flat picture and noise.

    Returns:
        Images (B, 3, H, W) in the ball, beyond the target or as near to it as was reached; for each start 1 if it is
        above its target, else -1, (B,); and the gradient evaluations (B,).
    """
    eps = torch.full((len(start),), ball.eps).to(start)
    best, candidate = start, start
    sign = torch.zeros_like(target)
    value, gradient = torch.full_like(target, torch.inf), torch.zeros_like(start)
    length = FIRST_STEP * eps
    evaluations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    for step in range(ball.steps):
        x = candidate.detach().requires_grad_(True)
        with torch.enable_grad():
            values = f(x)
            (slope,) = torch.autograd.grad(values.sum(), x)
        if step == 0:
            sign = torch.where(values.detach() > target, 1.0, -1.0)
        height = sign * (values.detach() - target)  # above the target, as seen from the start; negative beyond it
        helped = height < value
        evaluations += value > 0
        length = torch.where(helped, LONGER * length, SHORTER * length) if step else length
        best, gradient = _choose(helped, candidate, best), _choose(helped, slope, gradient)
        value = torch.where(helped, height, value)
        if not bool((value > 0).any()):
            break
        norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        moved = best - per_sample(sign * length / norm, best) * gradient
        candidate = _choose(value > 0, project(moved, start, eps, ball.norm), best)
    return best, sign, evaluations


@torch.no_grad()
def _halve(
    f: Function, start: Tensor, end: Tensor, target: Tensor, sign: Tensor, ball: Ball
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve the way from the starts to images beyond the target until f is close enough to it.

    Returns:
        The 8-bit images (B, 3, H, W), their values (B,), and the forward passes (B,).
    """
    eps = torch.full((len(start),), ball.eps).to(start)
    # Every value is rounded up at a place of its own on the way, so that they change one after the other.
    places = torch.rand(start.shape[1:], generator=torch.Generator().manual_seed(0)).to(start)

    def on_the_way(share: Tensor) -> Tensor:
        levels = first + per_sample(share, start) * (last - first)
        return to_grid(((levels + places).floor() / LEVELS).clamp(0, 1), start, eps, ball.norm)

    image = to_grid(end, start, eps, ball.norm)
    first, last = (LEVELS * start).round(), image.to(start)
    value = f(dequantize(image))
    forwards = torch.ones(len(start), dtype=torch.int64, device=start.device)
    crossed = sign * (value - target) <= 0
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(HALVINGS):
        is_open = crossed & ((value - target).abs() > CLOSE_ENOUGH)
        if not bool(is_open.any()):
            break
        forwards += is_open
        middle = (low + high) / 2
        tried = on_the_way(middle)
        reached = f(dequantize(tried))
        beyond = sign * (reached - target) <= 0
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        better = is_open & ((reached - target).abs() < (value - target).abs())
        image, value = _choose(better, tried, image), torch.where(better, reached, value)
    return image, value, forwards


def _choose(flags: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """The first image of each pair where its flag (B,) is set, else the second."""
    return torch.where(flags[:, None, None, None], images, others)
