"""`fast` without one of its parts, for the tests that compare."""

import torch
from torch import Tensor

from oodattack.core.methods import Fast


class Unwhitened(Fast):
    """Pushes on the error itself."""

    def weigh(self, x: Tensor, error: Tensor, n: int) -> Tensor:
        return error


class Hard(Fast):
    """Leaves the kinks of rectifiers as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kinks = None


class Uncut(Fast):
    """Takes every step whole, however far it overshoots."""

    def cut(self, step: Tensor, gradient: Tensor) -> Tensor:
        return torch.ones(len(step))


class Exact(Fast):
    """Never asks the twin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.passes = None
