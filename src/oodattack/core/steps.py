"""Adamax, the optimizer of the published method, with separate state for each sample."""

import torch
from torch import Tensor

from oodattack.core.ball import per_sample


class Adamax:
    """Adamax (Kingma & Ba 2015, Section 7.1), as `torch.optim.Adamax` computes it.

    Args:
        step_size: (B,) alpha.
        betas: decay rates of the running mean and of the running maximum of the directions.

    >>> rule = Adamax(torch.tensor([0.1]))
    >>> rule.step(torch.tensor([[0.5, -2.0]])).tolist()
    [[0.10000000149011612, -0.10000000149011612]]
    """

    def __init__(self, step_size: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.step_size, self.betas = step_size, betas
        self.n = 0

    def step(self, direction: Tensor) -> Tensor:
        """The displacement (B, ...) to subtract from the images, given the direction of ascent (B, ...) there."""
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
        """Forget every sample but ``rows`` (indices into the current batch)."""
        self.step_size = self.step_size[rows]
        if self.n:
            self.mean, self.peak = self.mean[rows], self.peak[rows]
