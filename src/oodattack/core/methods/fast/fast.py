"""`fast`: combines whitened errors, softened kinks, two precisions, Polyak's cut and the search on the 8-bit grid."""

from contextlib import nullcontext

import torch
from torch import Tensor

from oodattack.core.ball import per_sample
from oodattack.core.directions import steepest, tangent
from oodattack.core.gradient import HasTwin, Pass
from oodattack.core.methods.fast.kinks import SoftKinks, zone
from oodattack.core.methods.fast.nadam import CosineNadam, default_step_size, half_cosine, polyak_share
from oodattack.core.methods.fast.passes import TwoPrecisions
from oodattack.core.methods.fast.push import Push
from oodattack.core.methods.method import Method
from oodattack.core.problem import Match

APPROXIMATE_STEPS = 0.6  # fraction of the steps with softened kinks or the twin; after them f is exact
MAX_GRID_STEPS = 50  # default maximum, for attacks of up to 400 steps


class Fast(Method):
    """Nesterov's Adam on the normalised gradient of whitened errors, along the ball and through softened kinks.

    No step is longer than Polyak's, the first try begins at the start itself, the best image is kept, and a search on
    the 8-bit grid follows. docs/method.md explains each part and the alternatives that were tried. With estimated
    gradients, where the path is mostly noise, whitening, Polyak's cut, the twin and the search are omitted; without a
    target, the first three are.
    """

    uses_twin = True

    softening: float
    """Width of the softened zone at the first step (`SoftKinks`); 0 disables softening."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.nadam = CosineNadam(self.step_size, self.steps)
        self.softening = zone(self.steps)
        informed = self.gradient.passes > 0 and isinstance(self.problem, Match)
        self.pushes = Push(self.steps) if informed else None
        self.kinks = SoftKinks(self.softening) if self.softening else None
        self.passes: TwoPrecisions | None = None
        # With a single step, which is exact, the twin would only be measured.
        if informed and self.steps > 1 and isinstance(self.f, HasTwin) and self.f.rough_twin is not None:
            start = self.problem.start
            self.passes = TwoPrecisions(self.f, self.f.rough_twin, len(start), start.device, self.steps)

    @classmethod
    def default_step_size(cls, eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:
        """See `oodattack.core.methods.fast.nadam.default_step_size`."""
        return default_step_size(eps, pixels, norm, steps)

    @classmethod
    def default_grid_steps(cls, steps: int) -> int:
        """Half of N, at most 50; beyond 400 steps, an eighth of N."""
        return min(steps // 2, max(MAX_GRID_STEPS, steps // 8))

    def look(self, x: Tensor, n: int) -> Pass:
        """In the first 60 % of the steps: softened kinks, and the twin for samples that are far from their target."""
        if n >= APPROXIMATE_STEPS * self.steps:
            self.kinks = self.passes = None
        if self.kinks is not None:
            self.kinks.width = self.softening * half_cosine(n, self.steps)
        if self.passes is not None:
            return self.passes.look(x, self.gradient, self.generators, self.kinks)
        with self.kinks or nullcontext():
            return super().look(x, n)

    def push(self, x: Tensor, error: Tensor, n: int) -> Tensor:
        """The errors, whitened where that helps (`Push`)."""
        push = self.weigh(x, error, n)
        self.linear_loss = (push * error).sum(1)
        return push

    def weigh(self, x: Tensor, error: Tensor, n: int) -> Tensor:
        """The errors (B, K), weighted."""
        if self.pushes is None or not isinstance(self.problem, Match):
            return error
        return self.pushes(x, error, n, self.problem)

    def release(self, x: Tensor, error: Tensor, exact: Tensor, finished: Tensor) -> Tensor:
        """Samples that an exact pass finds finished; after an approximate pass, f itself decides in the next one."""
        if self.passes is None:
            return finished
        self.passes.settle(x, error, finished, self.problem)
        return finished & exact

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, L2-normalised for every norm of the ball, without the component that points out of the ball."""
        return tangent(steepest(gradient, 2), x, self.problem.start, self.problem.eps, self.problem.norm)

    def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:
        """Nadam's step, no longer than Polyak's."""
        step = self.nadam.step(h)
        if self.pushes is None:
            return x - step
        return torch.addcmul(x, step, per_sample(self.cut(step, gradient), x), value=-1)

    def cut(self, step: Tensor, gradient: Tensor) -> Tensor:
        """The fraction (B,) of each step to take."""
        return polyak_share(step, self.linear_loss, gradient)

    def keep(self, stay: Tensor) -> None:
        """See `Method`."""
        super().keep(stay)
        self.nadam.keep(stay)
        self.linear_loss = self.linear_loss[stay]
        for memory in (self.pushes, self.kinks, self.passes):
            if memory is not None:
                memory.keep(stay)
