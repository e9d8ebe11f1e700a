"""`fast` without one of its parts, for comparison."""

import torch
from torch import Tensor

from oodattack.core.methods import Fast


class WithoutWhitening(Fast):
    """Uses the raw errors."""

    def weigh(self, x: Tensor, error: Tensor, n: int) -> Tensor:
        return error


class WithoutSoftening(Fast):
    """Uses the exact derivatives of rectifiers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kinks = None


class WithoutStepLimit(Fast):
    """Takes every step in full, even beyond Polyak's length."""

    def cut(self, step: Tensor, gradient: Tensor) -> Tensor:
        return torch.ones(len(step))


class WithoutTwin(Fast):
    """Evaluates only f itself, never its twin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.passes = None
