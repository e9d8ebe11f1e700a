"""The steps of `fast`: Nesterov's Adam on a cosine schedule, no longer than Polyak's step."""

import math

import torch
from torch import Tensor

from oodattack.core.ball import dot, per_sample

BETAS = 0.9, 0.99  # decay rates of the running mean and the running mean square of the directions
MIN_COSINE = 0.4  # between a step and the gradient; in networks of many layers it is rarely less
LONGEST_STEP = 0.3  # upper bound on alpha, in pixels of [0, 1]
STEP_PER_SHARE = 2.4  # alpha, in units of what eps allows each pixel when all move by the same amount
PATH_LENGTH = 6.0  # upper bound on alpha times N: about six times across the range of a pixel


def default_step_size(eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:
    """2.4 times what eps allows a pixel if all move by the same amount, up to 6 / N (0.3 / sqrt(N) beyond 400 steps).

    Adam moves every pixel by about alpha per step, so N steps of 6 / N would take a pixel six times across its range;
    with few steps, the limit is 0.3. The ball and Polyak's cut shorten steps that are too long.

    Args:
        eps: (B,) radii, in pixels of [0, 1].
        pixels: number of values in an image, 3 * H * W.
        norm: 1, 2 or infinity.
        steps: N.

    Returns:
        (B,) alpha, in pixels of [0, 1].

    >>> default_step_size(torch.tensor([1.0]), 100, 2, 100)
    tensor([0.0600])
    """
    per_pixel = {1.0: eps / math.sqrt(pixels), 2.0: eps / math.sqrt(pixels), math.inf: eps}[norm]
    longest = max(PATH_LENGTH / steps, LONGEST_STEP / math.sqrt(steps))
    return (STEP_PER_SHARE * per_pixel).clamp_max(min(LONGEST_STEP, longest))


def half_cosine(n: int, steps: int) -> float:
    """A schedule that falls from 1 at n = 0 to 0 at n = ``steps``.

    >>> [round(half_cosine(n, 4), 2) for n in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return (1 + math.cos(math.pi * n / steps)) / 2


class CosineNadam:
    """Adam with Nesterov's momentum (Dozat 2016), whose step size falls to zero over ``steps`` steps.

    It falls along a half cosine, raised to the power ``log10(steps) / 2`` beyond 100 steps, so that longer attacks
    spend their extra steps on short ones.

    Args:
        step_size: (B,) the initial alpha.
        steps: N, after which alpha is zero.
        betas: decay rates of the running mean and the running mean square of the directions.

    >>> rule = CosineNadam(torch.tensor([0.1]), steps=2)
    >>> [round(rule.step(torch.tensor([[1.0]])).item(), 4) for _ in range(2)]
    [0.1474, 0.0579]
    """

    def __init__(self, step_size: Tensor, steps: int, betas: tuple[float, float] = BETAS) -> None:
        self.step_size, self.steps, self.betas = step_size, steps, betas
        self.power = max(1.0, math.log10(steps) / 2)
        self.n = 0

    def step(self, direction: Tensor) -> Tensor:
        """The displacement (B, ...) to subtract from the images, given the direction of ascent (B, ...) there."""
        if self.n == 0:
            self.mean = torch.zeros_like(direction)
            self.square = torch.zeros_like(direction)
            self.least = direction.new_tensor(1e-16)
        decay = half_cosine(self.n, self.steps) ** self.power
        self.n += 1
        beta1, beta2 = self.betas
        self.mean.lerp_(direction, 1 - beta1)
        # It decays towards 1e-16 instead of 0, because steps are divided by its root.
        self.square.lerp_(self.least, 1 - beta2).addcmul_(direction, direction, value=1 - beta2)
        # The mean as it will be if the next direction equals this one. Per-sample factors go into the rate.
        ahead = beta1 / (1 - beta1 ** (self.n + 1))
        now = (1 - beta1) / (1 - beta1**self.n)
        unbiased = math.sqrt(1 - beta2**self.n)
        rate = per_sample(self.step_size * (decay * unbiased * now), direction)
        # Not `sqrt`: on some CPUs it takes ten times as long for zeros, which occur at pixels that f ignores.
        return torch.add(direction, self.mean, alpha=ahead / now).mul_(self.square.rsqrt()).mul_(rate)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        self.step_size = self.step_size[rows]
        if self.n:
            self.mean, self.square = self.mean[rows], self.square[rows]


def polyak_share(step: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """The fraction of each step to take: up to Polyak's length, at which the loss would reach zero if it were linear.

    The minimum of the loss is known, ‖f(x) - t‖^2 = 0 (Polyak 1987, Section 5.3), so a step longer than
    ``loss / <gradient, step>`` times itself overshoots. Close to the target the step shrinks with the loss; far from it
    the schedule decides. This keeps the image much closer to its start. A step that hardly descends, or that ascends
    (momentum may carry it past an optimum), has no such length: it may be at most ``1 / MIN_COSINE`` times as long as
    Polyak's step along the gradient, ``loss / ‖gradient‖``.

    Args:
        step: (B, ...) displacements to subtract.
        loss: (B,) losses; with weighted errors w, ``<w, e>`` where the gradient is ``2 J^T w``. Where a loss is not
            positive, the full step is taken.
        gradient: (B, ...) gradients of the loss.

    Returns:
        (B,) fractions, at most 1.

    >>> polyak_share(torch.tensor([[4.0], [0.5]]), torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [1.0]]))
    tensor([0.2500, 1.0000])
    """
    lengths = [torch.linalg.vector_norm(vector.flatten(1), dim=1) for vector in (gradient, step)]
    descent = dot(gradient, step).maximum(MIN_COSINE * lengths[0] * lengths[1])
    return torch.where((descent > loss) & (loss > 0), loss / descent, 1.0)
