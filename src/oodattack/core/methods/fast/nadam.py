"""The steps of `fast`: Nesterov's Adam on a cosine schedule, cut at Polyak's length."""

import math

import torch
from torch import Tensor

from oodattack.core.ball import dot, per_sample

BETAS = 0.9, 0.99  # decay of the mean and of the mean square of the directions
MIN_COSINE = 0.4  # between a step and the gradient; in networks of many layers it is seldom less
LONGEST_STEP = 0.3  # alpha at most, in pixels of [0, 1]
STEP_PER_SHARE = 2.4  # alpha, in units of what eps allows each pixel when all move alike
PATH_LENGTH = 6.0  # alpha times N at most: about six times across the range of a pixel


def default_step_size(eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:
    """2.4 times what eps allows a pixel when all move alike, but at most 6 / N (0.3 / sqrt(N) beyond 400 steps).

    Adam moves every pixel by about alpha a step, so N steps of 6 / N would take it six times across its range; with few
    steps, 0.3 is the limit. Steps that are too long are held back by the ball and by Polyak's cut.

    >>> default_step_size(torch.tensor([1.0]), 100, 2, 100)
    tensor([0.0600])
    """
    per_pixel = {1.0: eps / math.sqrt(pixels), 2.0: eps / math.sqrt(pixels), math.inf: eps}[norm]
    longest = max(PATH_LENGTH / steps, LONGEST_STEP / math.sqrt(steps))
    return (STEP_PER_SHARE * per_pixel).clamp_max(min(LONGEST_STEP, longest))


def half_cosine(n: int, steps: int) -> float:
    """A schedule from 1 at n = 0 to 0 at ``steps``.

    >>> [round(half_cosine(n, 4), 2) for n in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return (1 + math.cos(math.pi * n / steps)) / 2


class CosineNadam:
    """Adam with Nesterov's momentum (Dozat 2016), whose step size falls to zero over ``steps`` steps.

    It falls along a half cosine, raised to the power ``log10(steps) / 2`` beyond 100 steps: a longer run soon leaves
    the long steps behind and spends its extra steps on short ones.

    Args:
        step_size: (B,) the first alpha.
        steps: N, after which alpha is zero.
        betas: decay of the mean and of the mean square of the directions.

    >>> rule = CosineNadam(torch.tensor([0.1]), steps=2)
    >>> [round(rule.step(torch.tensor([[1.0]])).item(), 4) for _ in range(2)]
    [0.1474, 0.0579]
    """

    def __init__(self, step_size: Tensor, steps: int, betas: tuple[float, float] = BETAS) -> None:
        self.step_size, self.steps, self.betas = step_size, steps, betas
        self.power = max(1.0, math.log10(steps) / 2)
        self.n = 0

    def step(self, direction: Tensor) -> Tensor:
        """Displacement (B, ...) to subtract from the images, given the direction (B, ...) of ascent at them."""
        if self.n == 0:
            self.mean = torch.zeros_like(direction)
            self.square = torch.zeros_like(direction)
            self.least = direction.new_tensor(1e-16)
        decay = half_cosine(self.n, self.steps) ** self.power
        self.n += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(direction, 1 - beta1)
        # Towards 1e-16 instead of 0, because steps are divided by its root.
        self.square.lerp_(self.least, 1 - beta2).addcmul_(direction, direction, value=1 - beta2)
        # The mean as it will be if the next direction equals this one. Factors per sample go into the rate.
        ahead = beta1 / (1 - beta1 ** (self.n + 1))
        now = (1 - beta1) / (1 - beta1**self.n)
        unbiased = math.sqrt(1 - beta2**self.n)
        rate = per_sample(self.step_size * (decay * unbiased * now), direction)
        # Not `sqrt`: on some CPUs it takes ten times as long for zeros, which are the pixels that f does not see.
        return torch.add(direction, self.mean, alpha=ahead / now).mul_(self.square.rsqrt()).mul_(rate)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        self.step_size = self.step_size[rows]
        if self.n:
            self.mean, self.square = self.mean[rows], self.square[rows]


def polyak_share(step: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """The share of each step to take: at most Polyak's length, at which the loss, if it were linear, would reach zero.

    The least loss is known, ‖f(x) - t‖^2 = 0 (Polyak 1987, Section 5.3), so a step longer than
    ``loss / <gradient, step>`` times itself overshoots. Close to the target the step shrinks with the loss; far from it
    the schedule decides. The image stays much closer to its start. A step that hardly descends, or that ascends, as
    momentum may past an optimum, has no such length: it is at most ``1 / MIN_COSINE`` times as long as Polyak's step
    along the gradient, ``loss / ‖gradient‖``.

    Args:
        step: (B, ...) displacements to subtract.
        loss: (B,) losses; with weighted errors w, ``<w, e>`` where the gradient is ``2 J^T w``. Where it is not
            positive, the step is taken whole.
        gradient: (B, ...) gradients of the loss.

    Returns:
        (B,) shares, none above 1.

    >>> polyak_share(torch.tensor([[4.0], [0.5]]), torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [1.0]]))
    tensor([0.2500, 1.0000])
    """
    lengths = [torch.linalg.vector_norm(vector.flatten(1), dim=1) for vector in (gradient, step)]
    descent = dot(gradient, step).maximum(MIN_COSINE * lengths[0] * lengths[1])
    return torch.where((descent > loss) & (loss > 0), loss / descent, 1.0)
