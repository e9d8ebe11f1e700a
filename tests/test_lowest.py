"""Without a target, a score is lowered as far as ball, box and steps allow; for linear scores the minimum is known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from oodattack import AttackResult, InputError, Spsa, attack
from oodattack.core.methods import Fast, Method, Paper, Plain

SHAPE = (3, 3, 8, 8)


def weights() -> Tensor:
    return torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    """<a, x>, (B,); its rounding does not depend on the batch."""
    return torch.stack([(image * weights()).sum() for image in x])


def starts(low: float = 0.4, high: float = 0.6) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(SHAPE, generator=rng, dtype=torch.float64) * (high - low) + low
    return (x * 255).round() / 255


def minimum(start: Tensor, eps: float, norm: float) -> Tensor:
    """The minimum of <a, x> over the ball alone, by the dual norm: <a, x0> - eps * ‖a‖_q."""
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    dual_norm: Tensor = torch.linalg.vector_norm(weights().flatten(), dual)
    return linear(start) - eps * dual_norm


@pytest.mark.parametrize(("norm", "eps"), [(1, 0.3), (2, 0.3), (math.inf, 0.05)])
@pytest.mark.parametrize("method", [Fast, Plain, Paper])
def test_a_linear_score_reaches_its_minimum(method: type[Method], norm: float, eps: float) -> None:
    start = starts()
    result = attack(linear, start, None, eps=eps, norm=norm, steps=300, method=method)
    bound = minimum(start, eps, norm)
    assert (result.distance <= eps * (1 + 1e-9)).all()
    assert (result.latent >= bound - 1e-9).all()
    decrease, largest = linear(start) - result.latent, linear(start) - bound
    # In L1, `paper` and `plain` follow the L2 direction; and Adamax with projection has a different fixed point.
    share = 0.99 if method is Fast or (method is Plain and norm != 1) else 0.2
    assert (decrease >= share * largest).all(), decrease / largest


@pytest.mark.parametrize("levels", [1, 8])
def test_a_linear_score_reaches_its_minimum_on_the_grid(levels: int) -> None:
    """In a Linf ball of k levels, every pixel moves by k levels, or to the face of the box if that is nearer."""
    start = starts(0.0, 1.0)
    result = attack(linear, start, None, eps=levels / 255, norm=math.inf, steps=60, pixels=256)
    expected = (start - levels / 255 * weights().sign()).clamp(0, 1)
    torch.testing.assert_close(result.image, expected, rtol=0, atol=1e-9)


def test_the_grid_search_improves_on_rounding() -> None:
    """In an L2 ball, rounding gives up part of the decrease; the search regains some of it inside the ball."""
    start, settings = starts(), {"eps": 0.1, "steps": 60, "pixels": 256}
    rounded, searched = (attack(linear, start, None, grid_steps=n, **settings) for n in (0, 20))  # type: ignore[arg-type]
    assert (searched.latent <= rounded.latent).all()
    assert (searched.latent < rounded.latent).any()
    assert (searched.distance <= 0.1 * (1 + 1e-6)).all()
    assert (searched.gradient_evaluations > 60).all()


def test_the_image_with_the_lowest_score_is_kept() -> None:
    start = starts()
    result = attack(lambda x: linear(x)[:, None], start, None, eps=0.5, steps=40)
    torch.testing.assert_close(result.latent[:, 0], linear(result.image))
    torch.testing.assert_close(result.history[:, 0], linear(start))
    torch.testing.assert_close(result.latent[:, 0], result.history.nanquantile(0, dim=1))
    assert result.mape.isnan().all()
    assert result.float_mape.isnan().all()
    assert result.part_mape.isnan().all()
    assert result.notes == ("",) * 3


def test_the_start_is_returned_if_no_image_has_a_lower_score() -> None:
    """The score is lowest at the start itself."""
    start = starts()

    def bowl(x: Tensor) -> Tensor:
        return (x - start).square().sum((1, 2, 3))

    for pixels in (None, 256):
        result = attack(bowl, start, None, eps=1.0, steps=10, pixels=pixels, check=False)
        assert torch.equal(result.image, start)


@pytest.mark.parametrize("pixels", [None, 256])
def test_the_unit_of_a_score_does_not_matter(pixels: int | None) -> None:
    """No target gives it a scale. Factors that are powers of two do not change the rounding either."""
    start = starts()

    def scaled(factor: float) -> AttackResult:
        return attack(lambda x: factor * linear(x), start, None, eps=0.4, steps=20, pixels=pixels)

    small, large = scaled(2.0**-10), scaled(2.0**10)
    assert torch.equal(small.image, large.image)
    assert torch.equal(2.0**20 * small.latent, large.latent)


def test_restarts_keep_the_lowest_try() -> None:
    """The score has two minima, and the first try descends to the nearer one; the best of several is no higher."""
    start = torch.full((2, 3, 4, 4), 0.52, dtype=torch.float64)

    def valleys(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.minimum((mean - 0.6).abs(), 2 * (mean - 0.3).abs() - 0.2)

    once, often = (attack(valleys, start, None, eps=3.0, steps=30, restarts=n) for n in (1, 6))
    assert (often.latent <= once.latent).all()
    assert (often.gradient_evaluations == 6 * 30).all()


def test_spsa_lowers_a_score_too() -> None:
    start = starts()
    result = attack(linear, start, None, eps=0.3, steps=30, gradient=Spsa(directions=64))
    assert (result.latent < linear(start)).all()
    assert (result.gradient_evaluations == 0).all()


def test_a_result_does_not_depend_on_the_batch() -> None:
    start = starts()

    def score(x: Tensor) -> Tensor:
        return torch.tanh(linear(x) / 5) + linear(x).square() / 1000

    together = attack(score, start, None, eps=0.4, steps=20, pixels=256)
    for i in range(3):
        alone = attack(score, start[[i]], None, eps=0.4, steps=20, pixels=256)
        torch.testing.assert_close(alone.image, together.image[[i]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerance": 0.1}, "expected no tolerance with target=None"),
        ({"parts": (1,)}, "expected no parts with target=None"),
        ({"below": True}, "expected no below=True with target=None"),
    ],
)
def test_settings_of_a_target_are_refused_without_a_target(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(linear, starts(), None, eps=1.0, **given)


def test_several_numbers_per_image_are_refused() -> None:
    with pytest.raises(InputError, match=r"one score per image.*got 3 numbers"):
        attack(lambda x: x.mean((2, 3)), starts(), None, eps=1.0)
