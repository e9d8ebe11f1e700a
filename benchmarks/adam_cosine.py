"""Adam from the start with a half-cosine step: the plain strong baseline, as a custom method.

What a practitioner would write first, with the choices that favour it: the gradient is normalised per image (raw
gradients are far worse), every step is projected onto ball and box, and the best iterate is kept.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from oodattack.core.ball import per_sample
from oodattack.core.directions import steepest
from oodattack.core.methods import Method


class AdamCosine(Method):
    """Adam (Kingma & Ba 2015) on the squared latent distance; the step falls along a half cosine to zero.

    >>> from oodattack import attack
    >>> start, target = torch.zeros(1, 3, 4, 4), torch.full((1, 3), 0.1)
    >>> attack(lambda x: x.mean((2, 3)), start, target, eps=2.0, step_size=0.05, method=AdamCosine).mape.item() < 1e-3
    True
    """

    BETAS: ClassVar = (0.9, 0.999)  # the defaults of `torch.optim.Adam`

    def __post_init__(self) -> None:
        super().__post_init__()
        self.n = 0
        self.mean, self.square = torch.zeros_like(self.problem.start), torch.zeros_like(self.problem.start)

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """The gradient, L2-normalised in every norm: Adam divides by its own scale anyway."""
        return steepest(gradient, 2)

    def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002
        """One step of Adam, before the projection."""
        beta1, beta2 = self.BETAS
        rate = self.step_size * (1 + math.cos(math.pi * self.n / self.steps)) / 2
        self.n += 1
        self.mean = beta1 * self.mean + (1 - beta1) * h
        self.square = beta2 * self.square + (1 - beta2) * h.square()
        mean, square = self.mean / (1 - beta1**self.n), self.square / (1 - beta2**self.n)
        return x - per_sample(rate, x) * mean / (square.sqrt() + 1e-8)

    def keep(self, stay: Tensor) -> None:
        """See `Method`."""
        super().keep(stay)
        self.mean, self.square = self.mean[stay], self.square[stay]
