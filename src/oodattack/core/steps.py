"""How a step is taken: from a direction h(J') to a displacement of the image.

A rule is made for one run of the loop, sees the directions one after the other, and keeps its memory per sample,
so that finished samples can leave the batch. Adding a rule means adding a class with these two methods.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from oodattack.core.ball import dot, per_sample

LEAST_COSINE = 0.4  # between a step and the gradient; in networks of many layers it is seldom less


class StepRule(Protocol):
    """What the attack asks of a step rule."""

    def step(self, direction: Tensor) -> Tensor:
        """Displacement (B, ...) to *subtract* from the images, given the direction h(J') at them."""

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""


class Adamax:
    """Adamax (Kingma & Ba 2015, Section 7.1) on the perturbation, as `torch.optim.Adamax` computes it.

    >>> rule = Adamax(torch.tensor([0.1]))
    >>> rule.step(torch.tensor([[0.5, -2.0]])).tolist()
    [[0.10000000149011612, -0.10000000149011612]]
    """

    def __init__(self, step_size: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.step_size, self.betas = step_size, betas
        self.n = 0

    def step(self, direction: Tensor) -> Tensor:
        """See `StepRule`."""
        if self.n == 0:
            self.mean = torch.zeros_like(direction)
            self.peak = torch.zeros_like(direction)
        self.n += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(direction, 1 - beta1)
        self.peak = torch.maximum(self.peak * beta2, direction.abs() + 1e-8)
        rate = per_sample(self.step_size / (1 - beta1**self.n), direction)
        return rate * self.mean / self.peak

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        self.step_size = self.step_size[rows]
        if self.n:
            self.mean, self.peak = self.mean[rows], self.peak[rows]


def half_cosine(n: int, steps: int) -> float:
    """A schedule from 1 at n = 0 to 0 at ``steps``.

    >>> [round(half_cosine(n, 4), 2) for n in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return (1 + math.cos(math.pi * n / steps)) / 2


class CosineNadam:
    """Adam with Nesterov's momentum (Dozat 2016), whose step size falls to zero over ``steps`` steps.

    It falls along a half cosine, to the power ``log10(steps) / 2`` beyond 100 steps: a longer run is soon done with
    the long steps, and spends what it has more on the short ones.

    >>> rule = CosineNadam(torch.tensor([0.1]), steps=2)
    >>> [round(rule.step(torch.tensor([[1.0]])).item(), 4) for _ in range(2)]
    [0.1474, 0.0579]
    """

    def __init__(self, step_size: Tensor, steps: int, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.step_size, self.steps, self.betas = step_size, steps, betas
        self.power = max(1.0, math.log10(steps) / 2)
        self.n = 0

    def step(self, direction: Tensor) -> Tensor:
        """See `StepRule`."""
        if self.n == 0:
            self.mean = torch.zeros_like(direction)
            self.square = torch.zeros_like(direction)
            self.least = direction.new_tensor(1e-16)
        decay = half_cosine(self.n, self.steps) ** self.power
        self.n += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(direction, 1 - beta1)
        # Towards 1e-16 instead of 0: steps are divided by its root.
        self.square.lerp_(self.least, 1 - beta2).addcmul_(direction, direction, value=1 - beta2)
        # The mean as it will be if the next direction is as this one; what is one number a sample goes into the rate.
        ahead = beta1 / (1 - beta1 ** (self.n + 1))
        now = (1 - beta1) / (1 - beta1**self.n)
        unbiased = math.sqrt(1 - beta2**self.n)
        rate = per_sample(self.step_size * (decay * unbiased * now), direction)
        # Not by `sqrt`: of zeros, the pixels that f does not see, it takes ten times as long on some CPUs.
        return torch.add(direction, self.mean, alpha=ahead / now).mul_(self.square.rsqrt()).mul_(rate)

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        self.step_size = self.step_size[rows]
        if self.n:
            self.mean, self.square = self.mean[rows], self.square[rows]


class Plain:
    """Projected gradient descent without memory: the step size times the direction.

    >>> Plain(torch.tensor([0.5])).step(torch.tensor([[1.0, -1.0]])).tolist()
    [[0.5, -0.5]]
    """

    def __init__(self, step_size: Tensor) -> None:
        self.step_size = step_size

    def step(self, direction: Tensor) -> Tensor:
        """See `StepRule`."""
        return per_sample(self.step_size, direction) * direction

    def keep(self, rows: Tensor) -> None:
        """See `StepRule`."""
        self.step_size = self.step_size[rows]


def polyak_share(step: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """What share of each step to take: Polyak's length at most, where the loss, if it were linear, would reach zero.

    The least loss is known, ‖f(x) - t‖^2 = 0 (Polyak 1987, Section 5.3): a step that is longer than
    ``loss / <gradient, step>`` times itself overshoots. Close to the target the step follows the loss down, and far
    from it the rule's own schedule holds; the image stays much nearer to its start. A step that hardly descends, or
    ascends, as momentum may past an optimum, has no such length; it is at most ``1 / LEAST_COSINE`` times as long as
    Polyak's along the gradient, ``loss / ‖gradient‖``.

    Args:
        step: (B, ...) displacements to subtract.
        loss: (B,) losses; of weighted errors w, that is ``<w, e>`` where the gradient is ``2 J^T w``. Where it is not
            positive it says nothing.
        gradient: (B, ...) gradients of the loss.

    Returns:
        (B,) shares, none above 1.

    >>> polyak_share(torch.tensor([[4.0], [0.5]]), torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [1.0]]))
    tensor([0.2500, 1.0000])
    """
    lengths = [torch.linalg.vector_norm(vector.flatten(1), dim=1) for vector in (gradient, step)]
    descent = dot(gradient, step).maximum(LEAST_COSINE * lengths[0] * lengths[1])
    return torch.where((descent > loss) & (loss > 0), loss / descent, 1.0)
