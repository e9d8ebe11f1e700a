"""The best image of each sample so far and the work spent on it, in floating point or on the 8-bit grid."""

import math

import torch
from torch import Tensor

from oodattack.core.gradient import Pass
from oodattack.core.problem import Problem


class Tracker:
    """Keeps the best image of each sample; `see` is called with every evaluation of the batch.

    Args:
        images: (B, ...) placeholders until a first image has been seen; never written to.
        measured: (B,) their figures (`Problem.judge`).
        looks: maximum number of evaluations of a sample.
        tolerance: see `Problem.judge`.

    Attributes:
        image: (B, ...) the best images.
        loss: (B,) their losses; infinite until a first image has been seen.
        measured: (B,) their figures.
        arrived: (B,) whether they are within the tolerance.
        broken: (B,) whether a sample left the batch because its gradient was not finite.
        history: (B, looks) the figure of every image seen; NaN after the last.
        gradients: (B,) gradient evaluations spent.
        forwards: (B,) further forward passes spent.
    """

    def __init__(self, images: Tensor, measured: Tensor, looks: int, tolerance: float) -> None:
        zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.image = images
        self._borrowed = True  # the tensor belongs to the caller: copy it before writing
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
        """Record images after n steps and keep those that are better.

        Args:
            rows: (b,) indices of their samples.
            n: number of this evaluation, from 0.
            images: (b, ...) the images.
            seen: the pass that evaluated them; images whose latent is not exact are not kept.
            error: (b, K) their errors.
            problem: the problem of these samples.
            counts: whether a better image is kept even if it is not within the tolerance.

        Returns:
            (b,) which samples are within the tolerance; where the latent is not exact, only by that approximation.
        """
        self.gradients[rows] += seen.gradients
        self.forwards[rows] += seen.forwards
        loss = problem.loss(seen.latent, error)
        measured, arrived = problem.judge(seen.latent, self.tolerance)
        self.history[rows, n] = measured
        # J is quadratic and MAPE is not: an image can be within the tolerance without having the lowest J so far.
        better = ((loss < self.loss[rows]) | arrived if counts else arrived) & seen.exact
        place = rows[better]
        if len(place) == len(self.image):  # every sample improved, as in most steps: no copy needed
            self.image, self._borrowed = images, True
        elif len(place):
            self.put(place, images[better])
        self.loss[place], self.measured[place] = loss[better], measured[better]
        self.arrived[rows[arrived & better]] = True
        return arrived

    def put(self, rows: Tensor, images: Tensor) -> None:
        """Write the images (b, ...) of the samples ``rows`` (b,)."""
        if self._borrowed:
            self.image, self._borrowed = self.image.clone(), False
        self.image[rows] = images
