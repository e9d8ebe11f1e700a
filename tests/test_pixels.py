"""The 8-bit grid: rounding that stays inside the ball."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from oodattack.core.ball import distance, project
from oodattack.core.errors import InputError
from oodattack.core.pixels import LEVELS, check_grid, dequantize, quantize, to_grid

NORMS = [1.0, 2.0, math.inf]


@st.composite
def problems(draw: st.DrawFn, norm: float, *, on_grid: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Images inside ball and box, starts on or off the grid, and radii."""
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    start = dequantize(torch.randint(0, 256, (batch, 3, 1, width), generator=rng).to(torch.uint8), dtype)
    if not on_grid:
        start = torch.rand(start.shape, generator=rng, dtype=dtype)
    # Cubed, so that a few pixels move by many levels and most by less than one.
    step = torch.randn(start.shape, generator=rng).pow(3).to(dtype) * 0.05
    levels = st.integers(0, 20).map(float) | st.floats(0, 40) | st.just(math.inf)
    eps = torch.tensor(draw(st.lists(levels, min_size=batch, max_size=batch)), dtype=torch.float64) / LEVELS
    if not on_grid:
        eps = eps + distance(dequantize(quantize(start), torch.float64), start, norm) * (1 + 1e-6)
    return project(start + step, start, eps, norm), start, eps


@pytest.mark.parametrize("norm", NORMS)
def test_to_grid_is_inside_the_ball_and_close(norm: float) -> None:
    @given(problem=problems(norm))
    def check(problem: tuple[Tensor, Tensor, Tensor]) -> None:
        x, start, eps = problem
        levels = to_grid(x, start, eps, norm)
        assert levels.dtype == torch.uint8
        assert levels.shape == x.shape
        # In integer levels, without rounding errors: a ball of 8/255 contains exactly 8.
        start_levels, exact = quantize(start).double(), x.double() * LEVELS
        budget = eps * LEVELS * (1 + 1e-5)
        assert (distance(levels.double(), start_levels, norm) <= budget).all()
        # Never farther from x than the image with every pixel rounded towards the start.
        safe = torch.where(exact > start_levels, (exact + 1e-4).floor(), (exact - 1e-4).ceil())
        fits = distance(safe, start_levels, norm) <= eps * LEVELS * (1 - 2e-6)
        assert (distance(levels.double(), exact, 2)[fits] <= distance(safe, exact, 2)[fits] + 1e-3).all()
        # If the nearest image on the grid is inside, it is the result.
        nearest = quantize(x)
        inside = distance(nearest.double(), start_levels, norm) <= eps * LEVELS * (1 - 2e-6)
        assert torch.equal(levels[inside], nearest[inside])
        # In L1 and L2, the decoded float32 image is inside without any tolerance.
        if norm != math.inf:
            assert (distance(dequantize(levels), dequantize(quantize(start)), norm) <= eps).all()

    check()


@pytest.mark.parametrize("norm", NORMS)
def test_to_grid_of_a_start_off_the_grid_is_inside_too(norm: float) -> None:
    @given(problem=problems(norm, on_grid=False))
    def check(problem: tuple[Tensor, Tensor, Tensor]) -> None:
        x, start, eps = problem
        image = dequantize(to_grid(x, start, eps, norm), torch.float64)
        assert (distance(image, start, norm) <= eps * (1 + 1e-5) + 1e-6).all()

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linf_ball_of_k_levels_contains_k_levels(dtype: torch.dtype) -> None:
    """108/255 - 100/255 is a little more than 8/255 in floating point; that must not cost a level."""
    start = dequantize(torch.arange(256).repeat(3).view(1, 3, 16, 16).to(torch.uint8), dtype)
    room = 255 - quantize(start).int()
    for k in range(1, 65):
        up = (start + k / 255).clamp_max(1)
        for radius in (k / 255, k * (1 / 255)):
            eps = torch.tensor([radius], dtype=torch.float64)
            moved = to_grid(up, start, eps, math.inf).int() - quantize(start).int()
            assert torch.equal(moved, room.clamp_max(k))


@pytest.mark.parametrize("norm", [1, 2])
def test_to_grid_loses_little_on_a_photograph(norm: float) -> None:
    """The radius is used up, and the image is hardly farther from x than the nearest one on the grid."""
    rng = torch.Generator().manual_seed(0)
    start = dequantize(torch.randint(0, 256, (1, 3, 96, 96), generator=rng).to(torch.uint8))
    eps = torch.tensor([300.0 if norm == 1 else 3.0], dtype=torch.float64)
    x = project(start + torch.randn(start.shape, generator=rng), start, eps, norm)
    image = dequantize(to_grid(x, start, eps, norm))
    spent = float(distance(image, start, norm) / eps)
    assert 0.999 < spent <= 1 + 1e-6
    nearest = dequantize(quantize(x))
    assert float(distance(image, x, 2)) < 1.1 * float(distance(nearest, x, 2))


def test_the_cheapest_pixels_are_moved_back_first() -> None:
    """Three pixels round up, but the radius allows two: the one nearest to its lower level is moved back."""
    start = dequantize(torch.full((1, 3, 1, 1), 100, dtype=torch.uint8), torch.float64)
    x = start + torch.tensor([0.9, 0.55, 0.8], dtype=torch.float64).view(1, 3, 1, 1) / LEVELS
    budget = torch.tensor([2.4], dtype=torch.float64) / LEVELS
    assert to_grid(x, start, budget, 1).flatten().tolist() == [101, 100, 101]


def test_pixels_rounded_towards_the_start_stay() -> None:
    """Moving the third pixel from 2.01 to 1 regains more radius per error, but ends farther from x than (0, 1, 2)."""
    start = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    x = torch.tensor([0.68, 1.18, 2.01], dtype=torch.float64).view(1, 3, 1, 1) / LEVELS
    assert to_grid(x, start, distance(x, start, 2), 2).flatten().tolist() == [0, 1, 2]


def test_a_start_off_the_grid_in_too_small_a_ball_is_refused() -> None:
    start = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    eps = torch.tensor([1e-4, 1e-4])
    with pytest.raises(InputError, match=r"no 8-bit image is within eps = 0\.0001 of start 1.*raise eps"):
        to_grid(start, start, eps, math.inf)
    check_grid(start, torch.tensor([1e-4, 0.5 / 255]), math.inf)


def test_starts_on_the_grid_are_recognised_however_they_were_divided() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    for start in (
        levels.float() / 255,
        levels.float() * (1 / 255),
        (levels.double() / 255).float(),
        levels.double() / 255,
    ):
        check_grid(start, torch.zeros(1), 1)
        assert torch.equal(to_grid(start, start, torch.zeros(1), 1), levels)


def test_quantize_rounds_to_the_nearest_level_and_inverts_dequantize() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        assert dequantize(levels, dtype).dtype == dtype
        assert torch.equal(quantize(dequantize(levels, dtype)), levels)
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float((dequantize(quantize(x), torch.float64) - x).abs().max()) <= 0.5 / 255
    assert quantize(torch.tensor([0.49, 0.51, 99.51]) / 255).tolist() == [0, 1, 100]


def test_quantize_refuses_integer_levels() -> None:
    with pytest.raises(TypeError, match=r"expected floating-point pixels in \[0, 1\], got torch.uint8"):
        quantize(torch.tensor([0, 1, 255], dtype=torch.uint8))


def test_a_png_round_trip_preserves_the_levels() -> None:
    levels = quantize(torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)))
    file = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "PNG")
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert torch.equal(dequantize(decoded), dequantize(levels))
