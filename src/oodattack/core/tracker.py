"""The best image of each sample so far, and the work spent on it: for a try in floating point and on the 8-bit grid."""

import math

import torch
from torch import Tensor

from oodattack.core.gradient import Pass
from oodattack.core.problem import Problem


class Tracker:
    """Evaluate, keep the best: a tracker is shown every pass, whoever made it.

    Args:
        images: (B, ...) what stands in until a better image was seen; not written to.
        measured: (B,) their figures (`Problem.judge`).
        looks: number of times that a sample is shown, at most.
        tolerance: see `Problem.judge`.

    Attributes:
        image: (B, ...) the best images.
        loss: (B,) their losses; infinite until one was seen.
        measured: (B,) their figures.
        arrived: (B,) whether they are within the tolerance.
        broken: (B,) whether a sample left because its gradient was not finite.
        history: (B, looks) the figure of every image seen, NaN after the last.
        gradients: (B,) gradient evaluations spent.
        forwards: (B,) forward passes spent beside them.
    """

    def __init__(self, images: Tensor, measured: Tensor, looks: int, tolerance: float) -> None:
        zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.image = images
        self._borrowed = True  # the images are somebody else's tensor
        self.loss = torch.full_like(measured, math.inf)
        self.measured = measured.clone()
        self.arrived = torch.zeros_like(measured, dtype=torch.bool)
        self.broken = torch.zeros_like(measured, dtype=torch.bool)
        self.history = measured.new_full((len(zeros), looks), math.nan)
        self.gradients, self.forwards = zeros, zeros.clone()
        self.tolerance = tolerance

    def see(
        self, rows: Tensor, n: int, images: Tensor, seen: Pass, error: Tensor, problem: Problem, *, counts: bool = True
    ) -> Tensor:
        """Note images after n steps and keep those that are better.

        Args:
            rows: (b,) which samples they are of.
            n: number of this look, from 0.
            images: (b, ...) the images.
            seen: the pass that evaluated them; images whose latent is not exact are not kept.
            error: (b, K) their errors.
            problem: of these samples.
            counts: whether a better image is kept before it has arrived.

        Returns:
            (b,) which samples have arrived, or seem to where the latent is not exact.
        """
        self.gradients[rows] += seen.gradients
        self.forwards[rows] += seen.forwards
        loss = problem.loss(seen.latent, error)
        measured, arrived = problem.judge(seen.latent, self.tolerance)
        self.history[rows, n] = measured
        # J is quadratic and MAPE is not: an image can arrive without having the least J so far.
        better = ((loss < self.loss[rows]) | arrived if counts else arrived) & seen.exact
        place = rows[better]
        if len(place) == len(self.image):  # all of them, as in most steps: no need to copy
            self.image, self._borrowed = images, True
        elif len(place):
            self.put(place, images[better])
        self.loss[place], self.measured[place] = loss[better], measured[better]
        self.arrived[rows[arrived & better]] = True
        return arrived

    def put(self, rows: Tensor, images: Tensor) -> None:
        """Write the images of some samples."""
        if self._borrowed:
            self.image, self._borrowed = self.image.clone(), False
        self.image[rows] = images
