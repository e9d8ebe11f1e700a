"""The base class of attack methods: the hooks that Algorithm 1 calls, each with a plain default.

A method is a class; each instance is one try on one batch. A custom method overrides the hooks in which it differs.
Hooks must not modify their arguments in place: the best images are kept without a copy.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from oodattack.core.ball import per_sample, project, sample
from oodattack.core.directions import steepest
from oodattack.core.gradient import Function, Gradient, Pass
from oodattack.core.methods.grid import DirectionSquares, descend
from oodattack.core.pixels import dequantize, quantize, to_grid
from oodattack.core.problem import Problem
from oodattack.core.tracker import Tracker

GRID_STREAM = 2**20  # random stream of the search on the grid; larger than any number of tries


@dataclass
class Method:
    """One try of Algorithm 1: it descends from the start along the steepest direction and keeps the best image.

    Attributes:
        f: the function under attack, (B, 3, H, W) -> (B, K) or (B,).
        problem: the problem of the samples still in the batch.
        gradient: the source of gradients.
        seeds: one per sample.
        steps: N.
        step_size: (B,) alpha, in pixels of [0, 1].
        grid_steps: gradient evaluations on the 8-bit grid after the N steps.
        attempt: number of the try; 0 is the first.
        initial: (B, 3, H, W) images from which the first try starts; None for the method's default.
        generators: one per sample still in the batch; each has its own random stream, fixed by the sample's seed and
            the number of the try.
        whole: the problem of all samples, including those that have left the batch.
        squares: how much each pixel matters, for the search on the grid; None if there is no search.

    >>> class Momentum(Method):
    ...     velocity: Tensor | float = 0.0
    ...     def step(self, x, h, gradient):
    ...         self.velocity = 0.9 * self.velocity + h
    ...         return x - per_sample(self.step_size, x) * self.velocity
    ...     def keep(self, stay):
    ...         super().keep(stay)
    ...         self.velocity = self.velocity[stay]
    >>> from oodattack.core.attack import attack
    >>> start, target = torch.zeros(1, 3, 4, 4), torch.full((1, 3), 0.1)
    >>> attack(lambda x: x.mean((2, 3)), start, target, eps=2.0, steps=50, method=Momentum).mape.item() < 0.05
    True
    """

    uses_twin: ClassVar[bool] = False
    """Whether the method uses the twin of an f that has one (`oodattack.core.gradient.HasTwin`)."""

    f: Function
    problem: Problem
    gradient: Gradient
    seeds: Sequence[int]
    steps: int
    step_size: Tensor
    grid_steps: int = 0
    attempt: int = 0
    initial: Tensor | None = None
    generators: list[torch.Generator] = field(init=False)
    whole: Problem = field(init=False)
    squares: DirectionSquares | None = field(init=False)

    def __post_init__(self) -> None:
        self.generators = [generator(seed, self.attempt) for seed in self.seeds]
        self.whole = self.problem
        self.squares = DirectionSquares(self.problem.start) if self.grid_steps else None

    @classmethod
    def default_step_size(cls, eps: Tensor, pixels: int, norm: float, steps: int) -> Tensor:  # noqa: ARG003
        """Alpha (B,), in pixels of [0, 1]: a twentieth of the radius.

        Args:
            eps: (B,) radii.
            pixels: number of values in an image, 3 * H * W.
            norm: 1, 2 or infinity.
            steps: N.
        """
        return eps.clamp_max(box_diameter(pixels, norm)) / 20

    @classmethod
    def default_grid_steps(cls, steps: int) -> int:  # noqa: ARG003
        """Number of gradient evaluations on the 8-bit grid after N steps: none; the image is only rounded."""
        return 0

    def start(self) -> Tensor:
        """Lines 1 and 2: the first images (B, 3, H, W) of the try: the starts; in later tries, random points."""
        if self.attempt > 0:
            return self.clip(self.draw())
        return self.problem.start if self.initial is None else self.clip(self.initial)

    def draw(self) -> Tensor:
        """x'_out + xi, with xi uniform in the ball (line 1)."""
        return sample(self.problem.start, self.problem.eps, self.problem.norm, self.generators)

    def look(self, x: Tensor, n: int) -> Pass:  # noqa: ARG002 -- for methods that depend on n
        """Evaluate f and its gradient at the images after n steps."""
        latent, pullback = self.gradient(self.f, x, self.generators)
        exact = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return Pass(latent, exact, self.gradient.passes, self.gradient.forwards, pullback)

    def push(self, x: Tensor, error: Tensor, n: int) -> Tensor:  # noqa: ARG002
        """The error (B, K) that the step reduces: by default ``error`` itself."""
        return error

    def counts(self, n: int) -> bool:  # noqa: ARG002
        """Whether the images after n steps may be kept: by default any, so that the best image of a try counts."""
        return True

    def release(self, x: Tensor, error: Tensor, exact: Tensor, finished: Tensor) -> Tensor:  # noqa: ARG002
        """Which samples (B,) leave the batch: all ``finished`` ones, at their target or with a non-finite gradient."""
        return finished

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """h(J') (B, 3, H, W), the direction of ascent: by default the paper's."""
        return steepest(gradient, self.problem.norm)

    def record(self, h: Tensor) -> None:
        """Record the directions h (B, 3, H, W): they show the search on the grid how much each pixel matters."""
        if self.squares is not None:
            self.squares.add(h)

    def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """The images (B, 3, H, W) after the step, before the clip: by default ``x - alpha * h``."""
        return x - per_sample(self.step_size, x) * h

    def clip(self, x: Tensor) -> Tensor:
        """The nearest images (B, 3, H, W) that are inside both the ball and the pixel box."""
        return project(x, self.problem.start, self.problem.eps, self.problem.norm)

    def keep(self, stay: Tensor) -> None:
        """Forget every sample but those at ``stay`` (indices into the current batch)."""
        self.problem = self.problem.rows(stay)
        self.step_size = self.step_size[stay]
        self.generators = [self.generators[i] for i in stay.tolist()]
        if self.squares is not None:
            self.squares.keep(stay)

    def to_grid(self, best: Tracker) -> Tracker:
        """Move the best images of the try to the 8-bit grid, inside their balls, and search there (`descend`).

        Args:
            best: the tracker of the try in floating point.

        Returns:
            A tracker of the same samples, with images in [0, 1]. Its loss is infinite where that of ``best`` is.
        """
        rows = (best.loss < math.inf).nonzero().flatten()
        start = self.whole.start
        merged = Tracker(start, best.measured, 0, best.tolerance)
        if len(rows) == 0:
            return merged
        problem, images = self.whole.rows(rows), best.image[rows]
        levels = to_grid(images, problem.start, problem.eps, problem.norm)
        squares = torch.zeros_like(images) if self.squares is None else self.squares.all()[rows]
        steps = self.grid_steps if self.gradient.passes else 0
        generators = [generator(self.seeds[i], GRID_STREAM) for i in rows.tolist()]
        found = descend(self.f, problem, levels, images, squares, steps, best.tolerance, self.gradient, generators)
        saved, loss = dequantize(found.image, start.dtype), found.loss
        if self.counts(0):  # no worse than a start that is on the grid itself
            on_grid = (dequantize(quantize(problem.start), start.dtype) == problem.start).flatten(1).all(1)
            worse = on_grid & ~found.arrived & (problem.start_loss < loss)
            saved = torch.where(worse[:, None, None, None], problem.start, saved)
            loss = torch.where(worse, problem.start_loss, loss)
        merged.put(rows, saved)
        merged.loss[rows], merged.arrived[rows] = loss, found.arrived
        merged.gradients[rows], merged.forwards[rows] = found.gradients, found.forwards
        return merged


def generator(seed: int, stream: int) -> torch.Generator:
    """A random generator for one sample and try; close seeds give unrelated streams.

    >>> bool(torch.rand(1, generator=generator(0, 1)) == torch.rand(1, generator=generator(0, 1)))
    True
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def box_diameter(pixels: int, norm: float) -> float:
    """Distance between two opposite corners of the pixel box.

    >>> box_diameter(48, 1)
    48.0
    """
    return 1.0 if norm == math.inf else pixels ** (1 / norm)
