"""`paper`: Algorithm 1 as published; what the text leaves open is taken from the authors' later demo."""

import math

from torch import Tensor

from oodattack.core.ball import project, sample
from oodattack.core.methods.method import Method, box_diameter
from oodattack.core.steps import Adamax


class Paper(Method):
    """Start at a random point, run Adamax on the perturbation with alpha = eps / 100, and return the last image.

    Before it reaches Adamax, the gradient is divided by its own L2 norm (for Linf, replaced by its sign).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adamax = Adamax(self.step_size)

    @classmethod
    def default_step_size(cls, eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:  # noqa: ARG003
        """The alpha = eps / 100 of the authors' later demo; the paper states none.

        An infinite eps counts as the diameter of the pixel box. Adamax moves every pixel by about alpha. Nothing is
        stated for L1, where eps / 100 would be far too long; eps / sqrt(pixels) replaces eps there.
        """
        return (eps / math.sqrt(pixels) if norm == 1 else eps).clamp_max(box_diameter(pixels, norm)) / 100

    def start(self) -> Tensor:
        """Line 2: a random point, even in the first try."""
        return self.clip(self.draw() if self.attempt > 0 or self.initial is None else self.initial)

    def draw(self) -> Tensor:
        """Line 1: xi uniform in [-eps, eps] for each pixel, then clipped to the ball (not uniform in an L2 ball)."""
        cube = sample(self.problem.start, self.problem.eps, math.inf, self.generators)
        return project(cube, self.problem.start, self.problem.eps, self.problem.norm, box=None)

    def counts(self, n: int) -> bool:
        """Only the last image counts, as published."""
        return n == self.steps

    def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """Line 5 before the clip: x - alpha * Adamax(h)."""
        return x - self.adamax.step(h)

    def clip(self, x: Tensor) -> Tensor:
        """Project onto the ball first, then onto the pixel box: the authors' order."""
        return project(x, self.problem.start, self.problem.eps, self.problem.norm, box=None).clamp(0, 1)

    def keep(self, stay: Tensor) -> None:
        """See `Method`."""
        super().keep(stay)
        self.adamax.keep(stay)
