"""The measurement of a score's gradient, on functions whose gradient is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from oodattack.attacks import Slope, follow, measure_slope
from oodattack.attacks.differences import Differences
from oodattack.core.gradient import Autograd
from oodattack.detectors import Detector

X = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class _Scaled(torch.autograd.Function):
    """The identity with a wrong gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scaled(x: Tensor, factor: float) -> Tensor:
    return _Scaled.apply(x, factor)  # type: ignore[no-any-return]


def test_the_gradient_of_a_smooth_and_of_a_kinked_function_agrees_with_differences() -> None:
    assert measure_slope(lambda x: x.sin().sum((1, 2, 3)), X) == Slope(8, 8, 8, 8)
    # Kinks at 0.004, which only the short differences do not cross.
    x = X.mul(100).round().div(100) + 0.004
    assert measure_slope(lambda x: (x * 100 - (x * 100).round().detach()).relu().sum((1, 2, 3)), x).agreeing == 8


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
def test_a_wrong_gradient_does_not_agree(factor: float) -> None:
    assert measure_slope(lambda x: scaled(x.square().sum((1, 2, 3)), factor), X) == Slope(8, 8, 8, 0)


def test_images_without_a_finite_gradient_are_counted() -> None:
    def f(x: Tensor) -> Tensor:
        bright = (x.detach().mean((1, 2, 3)) > X.mean((1, 2, 3)).median()).to(x)
        return bright * x.mean((1, 2, 3))

    assert measure_slope(f, X).nonzero == 4
    assert measure_slope(lambda x: (x - x.detach()).sqrt().sum((1, 2, 3)), X) == Slope(8, 0, 0, 0)
    assert measure_slope(lambda x: x.detach().sum((1, 2, 3)), X) == Slope(8, 0, 0, 0)
    assert measure_slope(lambda x: torch.from_numpy(x.numpy()).sum((1, 2, 3)), X) == Slope(8, 0, 0, 0)


def test_differences_below_rounding_are_not_compared() -> None:
    assert measure_slope(lambda x: 1e6 + 1e-3 * x.mean((1, 2, 3)), X) == Slope(8, 8, 0, 0)


class Some(Detector):
    """A score with a gradient on the first few images only."""

    def __init__(self, count: int) -> None:
        self.with_gradient = X[:count].mean((1, 2, 3))

    def reads(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]

    def judge(self, reads: Tensor) -> Tensor:
        has = torch.isclose(reads.detach(), self.with_gradient).any(1)
        return torch.where(has, reads[:, 0], reads[:, 0].detach())

    def score(self, images: Tensor) -> Tensor:
        return self.reads(images)[:, 0].detach()


@pytest.mark.parametrize(("count", "source"), [(8, Autograd), (4, Autograd), (3, Differences), (0, Differences)])
def test_a_gradient_is_followed_if_it_exists_on_half_of_the_images(count: int, source: type) -> None:
    followed = follow(Some(count), X, Some(count).score(X))
    assert isinstance(followed.gradient, source)
    assert followed.slope.nonzero == count
