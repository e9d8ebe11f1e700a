"""The search on the 8-bit grid: it stays in the ball, never makes images worse, counts evaluations, and pays off."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from oodattack.core.attack import attack
from oodattack.core.ball import distance, project
from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd
from oodattack.core.methods.eigen import decompose
from oodattack.core.methods.grid import (
    COARSE_CHANGES,
    COARSE_EVALUATIONS,
    FINE_CHANGES,
    FLOOR,
    MIN_DISTURBANCE,
    MIN_EIGENVALUE,
    descend,
)
from oodattack.core.pixels import LEVELS, dequantize, quantize, to_grid
from oodattack.core.problem import Match, Problem, make_problem
from oodattack.core.tracker import Tracker
from oodattack.encoders import load_encoder

SHARED = Path(__file__).parents[2] / "shared"
NORMS = [1.0, 2.0, math.inf]
LATENT = 5

Encode = Callable[[Tensor], Tensor]


def network(pixels: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Encode:
    """A smooth nonlinear f of images with ``pixels`` values, whose rounding does not depend on the batch size."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.randn(pixels, 16, generator=rng, dtype=torch.float64) * 2 / math.sqrt(pixels)
    second = torch.randn(16, LATENT, generator=rng, dtype=torch.float64) / 3

    def f(x: Tensor) -> Tensor:
        hidden = torch.tanh((x.double().flatten(1)[:, :, None] * first).sum(1))
        return (hidden[:, :, None] * second).sum(1).to(dtype)

    return f


def linear(pixels: int, latent: int, seed: int = 0) -> tuple[Encode, Tensor]:
    """f(x) = A x, and A."""
    rng = torch.Generator().manual_seed(seed)
    A = torch.randn(latent, pixels, generator=rng, dtype=torch.float64) / math.sqrt(pixels)
    return lambda x: (x.double().flatten(1)[:, None] * A).sum(2), A


def make(f: Encode, start: Tensor, target: Tensor, eps: Tensor, norm: float = 2) -> Match:
    problem = make_problem(start, f(start), target, eps, norm)
    assert isinstance(problem, Match)
    return problem


def run(
    f: Encode,
    problem: Problem,
    levels: Tensor,
    norm: float = 2,
    steps: int = 8,
    tolerance: float = 0.0,
    squares: Tensor | None = None,
    image: Tensor | None = None,
) -> Tracker:
    image = dequantize(levels, problem.start.dtype) if image is None else image
    squares = torch.zeros_like(problem.start) if squares is None else squares
    return descend(f, replace(problem, norm=norm), levels, image, squares, steps, tolerance, Autograd())


def images(batch: int, seed: int, width: int = 4) -> Tensor:
    """(B, 3, 4, width) on the 8-bit grid."""
    rng = torch.Generator().manual_seed(seed)
    return dequantize(torch.randint(0, 256, (batch, 3, 4, width), generator=rng).to(torch.uint8), torch.float64)


def losses(f: Encode, problem: Problem, levels: Tensor) -> Tensor:
    return problem.error(f(dequantize(levels, problem.start.dtype))).square().sum(1)


class Recording:
    """Records which samples f evaluates, with and without a gradient.

    A sample is recognised by its first value, which f ignores and the search therefore never changes.
    """

    def __init__(self, f: Encode) -> None:
        self.f = f
        self.with_gradient: list[list[int]] = []
        self.without: list[list[int]] = []
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        samples = (x.detach()[:, 0, 0, 0] * LEVELS).round().int().tolist()
        (self.with_gradient if x.requires_grad else self.without).append(samples)
        self.seen.append(quantize(x.detach()))
        mask = torch.ones_like(x)
        mask[:, 0, 0, 0] = 0
        return self.f(x * mask)

    def count(self, calls: list[list[int]], batch: int) -> list[int]:
        return [sum(call.count(i) for call in calls) for i in range(batch)]


# --- invariants


@st.composite
def problems(draw: st.DrawFn, norm: float) -> tuple[Encode, Problem, Tensor]:
    """Networks, starts on and off the grid, balls of any radius from zero to infinity, and levels inside them."""
    batch, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    rng = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    start = images(batch, seed, width).to(dtype)
    radii = st.integers(0, 30).map(float) | st.floats(0, 60) | st.just(math.inf)
    eps = torch.tensor(draw(st.lists(radii, min_size=batch, max_size=batch)), dtype=torch.float64) / LEVELS
    if draw(st.booleans()):
        start = torch.rand(start.shape, generator=rng, dtype=dtype)
        eps = eps + distance(dequantize(quantize(start), torch.float64), start, norm) * (1 + 1e-6)
    f = network(start[0].numel(), seed, dtype)
    other = torch.rand(start.shape, generator=rng, dtype=dtype)
    x = project(start + 0.1 * torch.randn(start.shape, generator=rng, dtype=dtype), start, eps, norm)
    return f, make(f, start, f(other), eps), to_grid(x, start, eps, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_the_result_is_on_the_grid_inside_the_ball_and_never_worse(norm: float) -> None:
    @settings(max_examples=50)
    @given(case=problems(norm), steps=st.integers(0, 6))
    def check(case: tuple[Encode, Problem, Tensor], steps: int) -> None:
        f, problem, levels = case
        before = levels.clone()
        found = run(f, problem, levels, norm, steps)
        assert torch.equal(levels, before)  # the caller's tensor is not modified
        assert found.image.dtype == torch.uint8
        assert found.image.shape == levels.shape
        image = dequantize(found.image, torch.float64)
        assert (distance(image, problem.start, norm) <= problem.eps * (1 + 1e-5) + 1e-6).all()
        assert (losses(f, problem, found.image) <= losses(f, problem, levels) * (1 + 1e-5)).all()
        torch.testing.assert_close(found.loss, losses(f, problem, found.image), rtol=1e-4, atol=1e-10)
        assert ((found.gradients <= steps) & (found.forwards <= 1)).all()

    check()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_active_ball_constraint_is_used_up_but_not_violated(norm: float, dtype: torch.dtype) -> None:
    """The target is far outside the ball, so all changes point outwards. In integer levels, without rounding errors."""
    f = network(48, dtype=dtype)
    start = images(4, 1).to(dtype)
    radius = torch.tensor([1.5, 3.5, 10.5, 20.5], dtype=torch.float64)
    problem = make(f, start, 100 * f(images(4, 2)), radius / LEVELS)
    found = run(f, problem, quantize(start), norm, steps=30)
    moved = distance(found.image.double(), quantize(start).double(), norm)
    assert (moved <= radius * (1 + 1e-5)).all()
    assert (moved > 0.9 * radius - 1).all()
    if norm != math.inf:  # in L1 and L2, the decoded float32 image is inside without any tolerance
        decoded = distance(dequantize(found.image), dequantize(quantize(start)), norm)
        assert (decoded <= problem.eps).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_of_radius_zero_contains_only_the_start(norm: float) -> None:
    f, start = network(48), images(2, 1)
    problem = make(f, start, f(images(2, 2)), torch.tensor([0.0, 0.0], dtype=torch.float64))
    found = run(f, problem, quantize(start), norm)
    assert torch.equal(found.image, quantize(start))
    assert (found.gradients.tolist(), found.forwards.tolist()) == ([1, 1], [0, 0])


def test_pixels_at_0_and_255_do_not_wrap_around() -> None:
    """A black and a white image whose targets are darker than black and brighter than white."""
    f, A = linear(48, LATENT)
    start = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)]).double()
    beyond = torch.stack([-A.sign().mean(0), A.sign().mean(0)]).view(2, 3, 4, 4)
    problem = make(f, start, f(start + 0.2 * beyond), torch.tensor([math.inf, math.inf], dtype=torch.float64))
    found = run(f, problem, quantize(start), steps=10)
    change = found.image.int() - quantize(start).int()
    assert (change.abs() < 200).all()
    assert change.any()


# --- evaluations


def test_every_evaluation_is_counted_and_finished_samples_leave() -> None:
    """Samples that reach the target at once, after a while, or never, and one that cannot move."""
    start = images(5, 1)
    start[:, 0, 0, 0] = torch.arange(5).double() / LEVELS
    f = Recording(network(48))
    eps = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    other = images(5, 2)
    near = start.clone()
    near[:, :, 1:] = (start + 0.05 * (other - start))[:, :, 1:]
    target = f(near)
    target[0], target[2] = f(start)[0], 10 * f(other)[2]
    problem = make(f, start, target, eps)
    f = Recording(f.f)
    found = run(f, problem, quantize(start), steps=12, tolerance=1e-3)
    assert found.gradients.tolist() == f.count(f.with_gradient, 5)
    assert found.forwards.tolist() == f.count(f.without, 5)
    assert len(f.without) <= 1
    assert found.gradients[0] == 1
    assert found.gradients[3] == 1
    assert 1 < found.gradients[1] < 12
    assert found.gradients[2] == 12
    assert found.arrived.tolist() == [True, True, False, False, True]
    for earlier, later in zip(f.with_gradient, f.with_gradient[1:], strict=False):
        assert set(later) <= set(earlier)
    # A finished sample is not evaluated again; one that used all its steps is, once.
    assert found.forwards.tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_may_have_another_dtype_than_images(dtype: torch.dtype) -> None:
    f, start = network(48, dtype=dtype), images(3, 1)
    problem = make(f, start, f(images(3, 2)), torch.full((3,), 1.0, dtype=torch.float64))
    found, rounded = run(f, problem, quantize(start)), run(f, problem, quantize(start), steps=0)
    assert (found.loss < rounded.loss).all()


def test_zero_steps_only_evaluate_the_image() -> None:
    f, start = Recording(network(48)), images(3, 1)
    problem = make(f.f, start, f.f(images(3, 2)), torch.full((3,), 1.0, dtype=torch.float64))
    found = run(f, problem, quantize(start), steps=0)
    assert torch.equal(found.image, quantize(start))
    assert f.with_gradient == []
    assert (found.gradients.tolist(), found.forwards.tolist()) == ([0] * 3, [1] * 3)
    assert torch.equal(found.loss, problem.error(f(start)).square().sum(1))


def test_an_image_within_tolerance_is_kept_whatever_its_loss() -> None:
    """One large error has a lower MAPE and a higher loss than four smaller ones."""
    start = images(1, 1)

    def f(x: Tensor) -> Tensor:
        at_start = (x.detach() == start).all()
        value = torch.tensor([0.7, 0.7, 0.7, 0.7] if at_start else [0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        pixels = x.flatten(1)[:, :4]
        return value + pixels - pixels.detach()

    problem = make(f, start, torch.ones(1, 4, dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64))
    found = run(f, problem, quantize(start), tolerance=0.26)
    assert found.arrived.all()
    assert not torch.equal(found.image, quantize(start))
    assert found.loss.item() == pytest.approx(1 / 4)


def test_samples_stop_at_the_tolerance() -> None:
    """With a tolerance of 0 the search continues."""
    f, start = network(48), images(3, 1)
    target = f(start + 0.05 * (images(3, 2) - start))
    problem = make(f, start, target, torch.full((3,), 1.0, dtype=torch.float64))
    loose = run(f, problem, quantize(start), steps=15, tolerance=0.01)
    tight = run(f, problem, quantize(start), steps=15, tolerance=0.0)
    assert loose.arrived.all()
    assert problem.judge(f(dequantize(loose.image, torch.float64)), 0.01)[1].all()
    assert not tight.arrived.any()
    assert (loose.gradients < tight.gradients).all()
    assert (tight.loss < loose.loss).all()


# --- independence of the samples


def test_no_sample_depends_on_its_neighbours() -> None:
    """In any order, and with samples that leave at different times."""
    f, start = network(48), images(6, 1)
    target = f(start + 0.1 * (images(6, 2) - start))
    eps = torch.tensor([0.0, 0.01, 0.05, 0.2, 1.0, math.inf], dtype=torch.float64)
    problem = make(f, start, target, eps)
    scales = torch.logspace(-9, 0, 6, dtype=torch.float64)[:, None, None, None]
    squares = scales * images(6, 3) ** 4

    def of(rows: list[int]) -> Tracker:
        now = problem.rows(torch.tensor(rows))
        return run(f, now, quantize(start)[rows], steps=40, tolerance=2e-4, squares=squares[rows])

    together = of([*range(6)])
    assert len(set(together.gradients.tolist())) > 2
    for rows in ([0], [3], [4, 1], [5, 4, 3, 2, 1, 0]):
        some = of(rows)
        assert torch.equal(some.image, together.image[rows])
        assert torch.equal(some.gradients, together.gradients[rows])
        assert torch.equal(some.forwards, together.forwards[rows])
        assert torch.equal(some.arrived, together.arrived[rows])
        torch.testing.assert_close(some.loss, together.loss[rows])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["latent", "gradient"])
@pytest.mark.parametrize("least", [0, 1, 75])
def test_a_non_finite_sample_does_not_stop_the_others(where: str, least: int, bad: float) -> None:
    """f fails at the first image, the next, or once ``least`` levels have changed; the best image so far counts."""
    f, start = network(48), images(3, 1)
    problem = make(f, start, f(images(3, 2)), torch.full((3,), 1.0, dtype=torch.float64))

    def breaking(x: Tensor) -> Tensor:
        moved = (x.detach() - start[1]).abs().flatten(1).sum(1) * LEVELS
        of_second = (moved < 8 * COARSE_CHANGES + 1) & (moved > least - 0.5)
        factor = torch.where(of_second, bad, 1.0)[:, None]
        z = f(x)
        if where == "latent":
            return z * factor
        if z.requires_grad:
            z.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
        return z

    found = run(breaking, problem, quantize(start), steps=8)
    expected = run(f, problem, quantize(start), steps=8)
    for i in (0, 2):
        assert torch.equal(found.image[i], expected.image[i])
    assert found.loss[[0, 2]].isfinite().all()
    assert found.gradients[1] < 8
    moved = int((found.image[1].int() - quantize(start)[1].int()).abs().sum())
    assert where == "gradient" or moved < max(least, 1)
    assert (moved > 0) == (least > (1 if where == "latent" else 0))


# --- quality


def greedy(
    A: np.ndarray,
    errors: np.ndarray,
    levels: np.ndarray,
    start: np.ndarray,
    eps: float,
    norm: float,
    squares: np.ndarray,
    rounding: np.ndarray,
) -> Any:
    """The same search by brute force: levels (n,) after up to `COARSE_CHANGES` changes of one level each.

    Args:
        A: (K, n) effect of each value on the weighted latent, per level.
        errors: (m, K) errors so far, the last of them at ``levels``.
        levels: (n,) integers.
        start: (n,) centre of the ball, in levels.
        eps: radius, in levels.
        norm: 1, 2 or infinity.
        squares: (n,) squared effect of one level of each value, in any unit.
        rounding: (n,) levels minus the values that were rounded.
    """
    directions = errors / np.linalg.norm(errors, axis=1, keepdims=True)
    _, sizes, rows = np.linalg.svd(directions, full_matrices=False)
    span = rows[sizes**2 > MIN_EIGENVALUE * sizes[0] ** 2]
    remaining, levels, rounding = span @ errors[-1], levels.copy(), rounding.copy()
    for _ in range(COARSE_CHANGES):
        before, best, change = np.sum(remaining**2), 1e-12, None
        for pixel in range(len(levels)):
            for sign in (-1, 1):
                trial = levels.copy()
                trial[pixel] += sign
                if not 0 <= trial[pixel] <= 255 or np.linalg.norm(trial - start, norm) > eps * (1 + 1e-6):
                    continue
                added = max((rounding[pixel] + sign) ** 2 - rounding[pixel] ** 2, MIN_DISTURBANCE)
                after = np.sum((remaining + span @ A[:, pixel] * sign) ** 2)
                gain = (before - after) / math.sqrt(squares[pixel] * added)
                if gain > best:
                    best, change = gain, (pixel, sign)
        if change is None:
            break
        levels[change[0]] += change[1]
        rounding[change[0]] += change[1]
        remaining = remaining + span @ A[:, change[0]] * change[1]
    return levels


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("norm", "eps"), [(1.0, 40.5), (2.0, 30.5), (math.inf, 12.0), (2.0, math.inf)])
@pytest.mark.parametrize("weighted", [False, True])
def test_changes_equal_those_of_a_brute_force_search(norm: float, eps: float, seed: int, *, weighted: bool) -> None:
    """12 values, some at 0 or 255; from the first error alone and from all so far; the unit of the squares cancels."""
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (1, 3, 2, 2), generator=rng).to(torch.uint8)
    levels.flatten()[:2] = torch.tensor([0, 255])
    start = dequantize(levels, torch.float64)
    f, A = linear(12, 3, seed)
    offset = torch.randint(-30, 31, levels.shape, generator=rng).double() / LEVELS
    problem = make(f, start, f(start + offset), torch.tensor([eps / LEVELS], dtype=torch.float64))
    seen: list[Tensor] = []

    def recorded(x: Tensor) -> Tensor:
        seen.append(quantize(x.detach()))
        return f(x)

    squares = torch.rand(levels.shape, generator=rng, dtype=torch.float64) ** 4 if weighted else torch.zeros(12)
    expected_squares = (squares + FLOOR * squares.mean()).flatten().numpy() if weighted else np.ones(12)
    exact = start + (torch.rand(levels.shape, generator=rng, dtype=torch.float64) - 0.5) / LEVELS
    run(recorded, problem, levels, norm, steps=8, squares=1e-9 * squares.view_as(start), image=exact)
    assert len(seen) >= 2
    effect = (A * problem.weight.T / LEVELS).numpy()
    evaluated = [x.flatten().double().numpy() for x in seen]
    errors = np.stack([problem.error(f(dequantize(x, torch.float64)))[0].numpy() for x in seen])
    center = levels.flatten().double().numpy()
    for n in range(1, len(seen)):
        rounding = evaluated[n - 1] - exact.flatten().numpy() * LEVELS
        expected = greedy(effect, errors[:n], evaluated[n - 1], center, eps, norm, expected_squares, rounding)
        assert np.array_equal(evaluated[n], expected), n


def test_thirty_evaluations_reduce_the_rounding_error_tenfold() -> None:
    """A linear f with many more pixels than latents; a floating-point image reaches the target exactly."""
    f, _ = linear(3 * 16 * 16, 10)
    rng = torch.Generator().manual_seed(3)
    start = images(4, 1, 64).view(4, 3, 16, 16)
    x = (start + 0.02 * torch.randn(start.shape, generator=rng, dtype=torch.float64)).clamp(0, 1)
    eps = 1.2 * distance(x, start, 2)
    problem = make(f, start, f(x), eps)
    levels = to_grid(x, start, eps, 2)
    rounded, found = run(f, problem, levels, steps=0), run(f, problem, levels, steps=30)
    assert (found.gradients <= 30).all()
    assert (found.loss.sqrt() < rounded.loss.sqrt() / 10).all()


def test_the_few_pixels_that_matter_are_found() -> None:
    """f depends only on the last 100 of 12288 values."""
    of_last, _ = linear(100, 3)

    def f(x: Tensor) -> Tensor:
        return of_last(x.flatten(1)[:, -100:])

    start = images(2, 1, 1024)
    problem = make(f, start, f(images(2, 2, 1024)), torch.full((2,), 1.0, dtype=torch.float64))
    found, rounded = run(f, problem, quantize(start)), run(f, problem, quantize(start), steps=0)
    assert (found.loss < rounded.loss).all()
    changed = (found.image != quantize(start)).flatten(1)
    assert not changed[:, :-100].any()


def test_rounding_errors_decide_between_similar_pixels() -> None:
    """3,000 pixels, more than the search considers, have a larger effect but were rounded the right way already."""
    start = torch.full((1, 3, 64, 32), 128 / LEVELS, dtype=torch.float64)
    effect = torch.where(torch.arange(6144) < 3000, 1.1, 1.0).double()
    rounding = torch.where(torch.arange(6144) < 3000, -0.4, 0.4).double().view_as(start) / LEVELS

    def f(x: Tensor) -> Tensor:
        return x.flatten(1) @ effect[:, None]

    problem = make(f, start, f(start) - 200 / LEVELS, torch.tensor([math.inf], dtype=torch.float64))
    found = run(f, problem, quantize(start), steps=1, image=start - rounding)
    change = (found.image.int() - quantize(start).int()).flatten()
    assert not change[:3000].any()
    assert change[3000:].sum() == -COARSE_CHANGES


# --- at the end of an attack


def example(batch: int = 3) -> tuple[Encode, Tensor, Tensor]:
    start = images(batch, 1, 16)
    f = network(start[0].numel())
    return f, start, f(images(batch, 2, 16))


def unreachable_example() -> tuple[Encode, Tensor, Tensor]:
    """Targets out of reach of an oscillating f, so that the search always finds a change to make."""
    smooth, start, target = example()
    return lambda x: (20 * smooth(x)).sin(), start, torch.full_like(target, 2.0)


@pytest.mark.parametrize("norm", NORMS)
def test_with_zero_grid_steps_the_attack_only_rounds(norm: float) -> None:
    f, start, target = example()
    eps = {1.0: 8.0, 2.0: 1.0, math.inf: 0.1}[norm]
    radius = torch.full((3,), eps, dtype=torch.float64)
    result = attack(f, start, target, eps=eps, norm=norm, steps=20, pixels=256, grid_steps=0)
    assert torch.equal(quantize(result.image), to_grid(result.float_image, start, radius, norm))
    assert result.gradient_evaluations.tolist() == [20] * 3


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_ends_on_the_grid_and_measures_there(norm: float) -> None:
    f, start, target = example()
    eps = {1.0: 16.0, 2.0: 1.0, math.inf: 0.1}[norm]

    def run_attack(grid_steps: int) -> Any:
        return attack(f, start, target, eps=eps, norm=norm, steps=20, pixels=256, grid_steps=grid_steps)

    rounded, result = run_attack(0), run_attack(12)
    assert torch.equal(result.image, dequantize(quantize(result.image), torch.float64))
    assert torch.equal(result.latent, f(result.image))
    error = (f(result.image) - target).abs().mean(1) / target.abs().amax(1)
    torch.testing.assert_close(result.mape, error)
    torch.testing.assert_close(result.distance, distance(result.image, start, norm))
    assert (result.distance <= eps * (1 + 1e-6)).all()
    assert torch.equal(result.float_image, rounded.float_image)
    # The search begins with the rounded image and keeps the least loss; the MAPE need not fall.
    errors = [torch.linalg.vector_norm(one.latent - target, dim=1) for one in (result, rounded)]
    assert (errors[0] <= errors[1]).all()
    assert (result.image != rounded.image).any()


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [("fast", 9, 4), ("fast", 1, 0), ("fast", 120, 50), ("fast", 488, 61), ("paper", 9, 0), ("plain", 9, 0)],
)
def test_the_default_number_of_grid_steps(method: str, steps: int, expected: int) -> None:
    f, start, out_of_reach = unreachable_example()
    on_grid = attack(f, start, out_of_reach, eps=5.0, steps=steps, method=method, pixels=256)
    assert on_grid.gradient_evaluations.tolist() == [steps + expected] * 3
    floating = attack(f, start, out_of_reach, eps=5.0, steps=steps, method=method)
    assert floating.gradient_evaluations.tolist() == [steps] * 3


@pytest.mark.parametrize("grid_steps", [1, 7])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_grid_steps_are_taken_in_addition_to_steps(method: str, grid_steps: int) -> None:
    f, start, out_of_reach = unreachable_example()
    f = Recording(f)
    result = attack(
        f, start, out_of_reach, eps=5.0, steps=6, method=method, pixels=256, grid_steps=grid_steps, check=False
    )
    assert result.gradient_evaluations.tolist() == [6 + grid_steps] * 3
    assert sum(map(len, f.with_gradient)) == 3 * (6 + grid_steps)
    assert sum(map(len, f.without)) == int(result.forward_evaluations.sum())


def test_spsa_rounds_without_a_search() -> None:
    f, start, target = example()
    result = attack(f, start, target, eps=1.0, steps=5, pixels=256, gradient="spsa")
    rounded = attack(f, start, target, eps=1.0, steps=5, pixels=256, grid_steps=0, gradient="spsa")
    assert torch.equal(result.image, rounded.image)
    assert torch.equal(result.forward_evaluations, rounded.forward_evaluations)
    with pytest.raises(InputError, match="expected no grid_steps with gradient='spsa', which rounds, got 7"):
        attack(f, start, target, eps=1.0, steps=5, pixels=256, grid_steps=7, gradient="spsa")


@pytest.mark.parametrize("bad", [-1, 2.5, True, "3"])
def test_bad_grid_steps_are_refused(bad: Any) -> None:
    f, start, target = example()
    with pytest.raises(InputError, match=r"expected grid_steps as a whole number of at least 0, got"):
        attack(f, start, target, eps=1.0, pixels=256, grid_steps=bad)


def test_8_bit_images_reach_the_latents_of_resnet20(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = SHARED / "data/weights/cifar10_resnet20-12fca82f.th"
    folder, xray = SHARED / "data/imagenet_subset", SHARED / "data/starts/paper_chest_xray.jpg"
    if not (weights.is_file() and folder.is_dir() and xray.is_file()):
        pytest.skip(f"needs {weights}, {folder} and {xray}")
    monkeypatch.chdir(Path(__file__).parent)
    channels = "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
    f = load_encoder(f"file:{weights},factory=factories:resnet20,{channels}", device="cpu")

    def read(path: Path) -> Tensor:
        pixels = np.array(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        return dequantize(torch.from_numpy(pixels).permute(2, 0, 1))

    files = sorted(folder.glob("*.jpg"))[::60][:8]
    start = read(xray).expand(len(files), -1, -1, -1)
    with torch.no_grad():
        target = f(torch.stack([read(file) for file in files]))
    result = attack(f, start, target, eps=10.0, steps=100, grid_steps=50, pixels=256)
    assert float(result.mape.median()) <= 6e-4  # rounding alone gives three times as much; the search gave a tenth
    assert (result.gradient_evaluations <= 150).all()


def test_squared_gradients_improve_the_search() -> None:
    """The few recorded errors span little of a long latent, and pixels differ greatly in effect."""
    rng = torch.Generator().manual_seed(0)
    scales = torch.logspace(-2, 0, 3072, dtype=torch.float64)[torch.randperm(3072, generator=rng)]
    A = torch.randn(400, 3072, generator=rng, dtype=torch.float64) * scales

    def f(x: Tensor) -> Tensor:
        return x.double().flatten(1) @ A.T

    start = images(3, 1, 256).view(3, 3, 32, 32)
    rounding = (torch.rand(start.shape, generator=rng, dtype=torch.float64) - 0.5) / LEVELS
    problem = make(f, start, f(start + rounding), torch.full((3,), math.inf, dtype=torch.float64))
    squares = (A.square().mean(0) / 7).view(1, 3, 32, 32).expand(3, -1, -1, -1)
    uninformed, informed = (run(f, problem, quantize(start), steps=20, squares=s) for s in (None, squares))
    assert (informed.loss < uninformed.loss / 1.5).all()


@pytest.mark.parametrize(("latent", "kept"), [(300, 50), (1000, 100)])
def test_a_long_search_continues_with_fewer_changes_and_a_longer_memory(
    latent: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_sizes: list[int] = []

    def record(gram: Tensor) -> tuple[Tensor, Tensor]:
        memory_sizes.append(len(gram[0]))
        return decompose(gram)

    monkeypatch.setattr("oodattack.core.methods.grid.decompose", record)
    _, A = linear(3 * 32 * 32, latent)

    def f(x: Tensor) -> Tensor:
        return x.double().flatten(1) @ A.T

    rng = torch.Generator().manual_seed(0)
    start = images(2, 1, 256).view(2, 3, 32, 32)
    image = start + (torch.rand(start.shape, generator=rng, dtype=torch.float64) - 0.5) / LEVELS
    problem = make(f, start, f(image), torch.full((2,), math.inf, dtype=torch.float64))

    def search(steps: int) -> tuple[Tensor, list[float]]:
        recording = Recording(f)
        found = run(recording, problem, quantize(start), steps=steps, image=image)
        moves = [a.int() - b.int() for a, b in itertools.pairwise(recording.seen)]
        return found.loss, [float(move.abs().flatten(1).sum(1).double().mean()) for move in moves]

    short, short_moves = search(COARSE_EVALUATIONS)
    long, long_moves = search(2 * COARSE_EVALUATIONS)
    assert short_moves == long_moves[:COARSE_EVALUATIONS]
    assert max(short_moves) == COARSE_CHANGES
    assert max(long_moves[-10:]) == FINE_CHANGES
    assert memory_sizes[-1] == kept
    assert (long <= short).all()


def test_an_attack_passes_its_squared_gradients_and_image_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample has its own squares, whenever the others leave; those of a value that f ignores are zero."""
    received: list[Tensor] = []
    rounded: list[Tensor] = []

    def record(f: Encode, problem: Problem, levels: Tensor, image: Tensor, squares: Tensor, *rest: Any) -> Tracker:
        received.append(squares)
        rounded.append(image)
        return descend(f, problem, levels, image, squares, *rest)

    monkeypatch.setattr("oodattack.core.methods.method.descend", record)
    f, start = Recording(network(48)), images(3, 1)
    target = f(start + 0.1 * (images(3, 2) - start))
    target[1] = f(start)[1]

    def of(rows: list[int], steps: int = 30) -> Tensor:
        result = attack(f, start[rows], target[rows], eps=1.0, steps=steps, tolerance=1e-3, pixels=256)
        assert torch.equal(rounded[-1], result.float_image)
        return received[-1]

    together = of([0, 1, 2])
    for i in (0, 2):
        torch.testing.assert_close(together[[i]], of([i]))
        assert together[i].flatten()[1:].all()
    assert not together[1].any()  # finished before its first step
    assert not together[:, 0, 0, 0].any()
    squares = of([0], steps=2)
    assert squares.sum().item() == pytest.approx(0.99 + 1)  # of two normalised gradients
