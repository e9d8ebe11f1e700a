"""`paper`: Algorithm 1 as published, with what the text leaves open taken from the authors' later demo."""

import math

from torch import Tensor

from oodattack.core.ball import project, sample
from oodattack.core.methods.method import Method, box_diameter
from oodattack.core.steps import Adamax


class Paper(Method):
    """A random start, Adamax on the perturbation with alpha = eps / 100, the last image.

    The gradient is divided by its own L2 norm (its sign for Linf) before Adamax sees it.
    """

    keeps_best = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adamax = Adamax(self.step_size)

    @classmethod
    def default_step_size(cls, eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:  # noqa: ARG003
        """The authors' alpha = eps / 100; an infinite eps counts as the diameter of the pixel box.

        Adamax moves every pixel by alpha. The paper leaves L1 open; there eps / 100 would be far too much, and
        eps / sqrt(pixels) takes the place of eps.
        """
        return (eps / math.sqrt(pixels) if norm == 1 else eps).clamp_max(box_diameter(pixels, norm)) / 100

    def start(self) -> Tensor:
        """Line 2: a random point, in the first try too."""
        return self.clip(self.draw() if self.attempt > 0 or self.initial is None else self.initial)

    def draw(self) -> Tensor:
        """Line 1: xi uniform in [-eps, eps] for each pixel, then clipped to the ball (not uniform in an L2 ball)."""
        cube = sample(self.problem.start, self.problem.eps, math.inf, self.generators)
        return project(cube, self.problem.start, self.problem.eps, self.problem.norm, box=None)

    def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """Line 5 before the clip: x - alpha * Adamax(h)."""
        return x - self.adamax.step(h)

    def clip(self, x: Tensor) -> Tensor:
        """The authors' order: to the ball first, to the pixel box second."""
        return project(x, self.problem.start, self.problem.eps, self.problem.norm, box=None).clamp(0, 1)

    def keep(self, stay: Tensor) -> None:
        """See `Method`."""
        super().keep(stay)
        self.adamax.keep(stay)
