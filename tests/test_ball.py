"""The ball and the pixel box: projection against an independent solver, sampling against closed forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq, minimize
from torch import Tensor

from oodattack.core.ball import check_norm, distance, dot, project, sample
from oodattack.core.directions import binding, steepest, tangent
from oodattack.core.errors import InputError

NORMS = [1.0, 2.0, math.inf]
EPS = [0.0, 1e-3, 0.1, 0.7, 2.0, math.inf]


@st.composite
def problems(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of points (some far outside the box), centres (some on its faces) and radii."""
    batch, n = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    center = torch.rand(batch, n, generator=rng, dtype=torch.float64)
    center = torch.where(torch.rand(batch, n, generator=rng) < 0.3, center.round(), center)
    spread = 10 ** torch.empty(batch, 1, dtype=torch.float64).uniform_(-3, 1, generator=rng)
    step = torch.randn(batch, n, generator=rng, dtype=torch.float64) * spread
    # Ties and pixels that do not move are the edge cases of sorting and of active sets.
    step = torch.where(torch.rand(batch, n, generator=rng) < 0.3, step.round(decimals=1), step)
    step = torch.where(torch.rand(batch, n, generator=rng) < 0.1, 0.0, step)
    eps = draw(st.lists(st.sampled_from(EPS) | st.floats(0, 3), min_size=batch, max_size=batch))
    return (center + step).to(dtype), center.to(dtype), torch.tensor(eps, dtype=torch.float64)


def test_inner_products_are_per_sample() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 5, 7, 2, generator=rng).transpose(1, 2) for _ in range(2))
    expected = (a.double() * b.double()).sum((1, 2, 3))
    torch.testing.assert_close(dot(a, b).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(dot(a.flip(0), b.flip(0)), dot(a, b).flip(0))


def reference(x: Tensor, center: Tensor, eps: float, norm: float, box: tuple[float, float] | None) -> Tensor:
    """The projection of one sample by bisection on the multiplier of the ball, in float64.

    For a multiplier m the Lagrangian separates into pixels: L2 minimises (y - x)^2 + m (y - c)^2, L1
    (y - x)^2 / 2 + m |y - c|, each clipped to its interval.
    """
    delta = (x - center).numpy()
    low, high = (-np.inf, np.inf) if box is None else (box[0] - center.numpy(), box[1] - center.numpy())
    if norm == math.inf:
        return center + torch.from_numpy(np.clip(delta, np.maximum(low, -eps), np.minimum(high, eps)))

    def at(multiplier: float) -> Any:
        if norm == 2:
            return np.clip(delta / (1 + multiplier), low, high)
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - multiplier, 0), low, high)

    def excess(multiplier: float) -> float:
        return float(np.linalg.norm(at(multiplier), norm)) - eps

    if excess(0) <= 0:
        return center + torch.from_numpy(at(0))
    if eps == 0:
        return center
    top = 1.0
    while excess(top) > 0:
        top *= 2
    return center + torch.from_numpy(at(brentq(excess, 0, top, xtol=1e-15, rtol=1e-14)))


@pytest.mark.parametrize("box", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", NORMS)
@given(problem=problems())
def test_project_is_the_nearest_point_of_ball_and_box(
    norm: float, box: tuple[float, float] | None, problem: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, center, eps = problem
    found = project(x, center, eps, norm, box)
    for i in range(len(x)):
        expected = reference(x[i], center[i], float(eps[i]), norm, box)
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_project_agrees_with_a_general_solver(norm: float) -> None:
    """SLSQP with the offset split into u - v: the L1 norm is the sum of u + v, and Linf bounds every pixel of it."""
    rng, eps = torch.Generator().manual_seed(3), 0.6
    for _ in range(5):
        center = torch.rand(1, 5, generator=rng, dtype=torch.float64)
        x = center + torch.randn(1, 5, generator=rng, dtype=torch.float64)
        c, goal = center[0].numpy(), x[0].numpy()

        def cost(uv: Any, goal: Any = goal, c: Any = c) -> float:
            return float(np.square(c + uv[:5] - uv[5:] - goal).sum())

        slack = {
            1.0: lambda uv: eps - uv.sum(),
            2.0: lambda uv: eps**2 - np.square(uv[:5] - uv[5:]).sum(),
            math.inf: lambda uv: eps - (uv[:5] + uv[5:]),
        }[norm]
        bounds = [(0, 1 - value) for value in c] + [(0, value) for value in c]
        answer = minimize(
            cost,
            np.zeros(10),
            bounds=bounds,
            constraints={"type": "ineq", "fun": slack},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = project(x, center, torch.tensor([eps]), norm)
        torch.testing.assert_close(
            found[0], center[0] + torch.from_numpy(answer.x[:5] - answer.x[5:]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(("pixels", "ulps", "error"), [(7, 0, 0), (48, 0, 1e-6), (48, 1, 1e-6)])
def test_a_corner_just_within_the_ball_is_kept(pixels: int, ulps: int, error: float) -> None:
    """All pixels end on the box, so nothing but rounding is left to put the point on the sphere."""
    rng = torch.Generator().manual_seed(0)
    center, beyond = torch.rand(2, 300, pixels, generator=rng, dtype=torch.float64)
    corner = torch.ones_like(center)
    eps = torch.linalg.vector_norm(corner - center, dim=1)
    for _ in range(ulps):  # the ball just fails to reach the corner
        eps = eps.nextafter(torch.zeros_like(eps))
    x, center = (torch.cat([points, points[:1]]) for points in (corner + 2 * beyond, center))
    found = project(x, center, torch.cat([eps, eps[:1] / 2]), 2)  # and one point far outside the ball
    torch.testing.assert_close(found[:-1], corner, rtol=0, atol=error)


@pytest.mark.parametrize(("dtype", "relative", "absolute"), [(torch.float64, 1e-9, 1e-14), (torch.float32, 1e-5, 1e-6)])
@pytest.mark.parametrize("norm", NORMS)
def test_project_is_feasible_and_idempotent(norm: float, dtype: torch.dtype, relative: float, absolute: float) -> None:
    @given(problem=problems(dtype))
    def check(problem: tuple[Tensor, Tensor, Tensor]) -> None:
        x, center, eps = problem
        once = project(x, center, eps, norm)
        assert once.dtype == dtype
        assert ((once >= 0) & (once <= 1)).all()
        assert (distance(once, center, norm) <= eps * (1 + relative) + absolute).all()
        torch.testing.assert_close(project(once, center, eps, norm), once, rtol=relative, atol=absolute)
        torch.testing.assert_close(once[eps == 0], center[eps == 0], rtol=0, atol=0)
        inside = distance(x.clamp(0, 1), center, norm) <= eps
        assert torch.equal(once[inside], x.clamp(0, 1)[inside])

    check()


@pytest.mark.parametrize("norm", NORMS)
@given(problem=problems())
def test_project_does_not_depend_on_the_batch(norm: float, problem: tuple[Tensor, Tensor, Tensor]) -> None:
    x, center, eps = problem
    together = project(x, center, eps, norm)
    for i in range(len(x)):
        row = slice(i, i + 1)
        torch.testing.assert_close(together[row], project(x[row], center[row], eps[row], norm), rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_project_is_accurate_in_float32_for_a_photograph(norm: float) -> None:
    """150,528 pixels, half of them on a face of the box, as in a scan with a black margin."""
    rng = torch.Generator().manual_seed(0)
    center = torch.rand(1, 3, 224, 224, generator=rng)
    center[..., :112] = 0
    x = center + 0.2 * torch.randn(center.shape, generator=rng)
    for eps in (1e-3, 8 / 255, 0.1) if norm == math.inf else (1e-3, 1.0, 10.0):
        found = project(x, center, torch.tensor([eps], dtype=torch.float64), norm)
        assert float(distance(found, center, norm)) == pytest.approx(eps, rel=1e-4)
        exact = project(x.double(), center.double(), torch.tensor([eps], dtype=torch.float64), norm)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-7)


def test_distances_are_summed_in_float64() -> None:
    """A float32 sum of 150,528 equal terms is off in the fifth digit."""
    x = torch.full((1, 3, 224, 224), 0.1)
    each = float(x[0, 0, 0, 0])
    assert float(distance(x, torch.zeros_like(x), 1)) == pytest.approx(150528 * each, rel=1e-12)
    assert float(distance(x, torch.zeros_like(x), 2)) == pytest.approx(math.sqrt(150528) * each, rel=1e-12)
    assert float(distance(x, torch.zeros_like(x), math.inf)) == each


def drawn(norm: float, eps: float, shape: tuple[int, ...], count: int) -> Tensor:
    """``count`` draws around the centre of the box, as a (count, n) matrix of offsets."""
    center = torch.full((count, *shape), 0.5, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return (sample(center, torch.full((count,), eps), norm, generators) - center).flatten(1)


@pytest.mark.parametrize("norm", NORMS)
def test_sample_is_uniform_by_volume(norm: float) -> None:
    """Uniform in a ball of dimension n: P(norm <= t) = (t / eps)^n, independent of an isotropic direction."""
    eps, n = 0.3, 3
    xi = drawn(norm, eps, (n, 1, 1), 4000)
    radius = torch.linalg.vector_norm(xi, norm, dim=1)
    assert float(radius.max()) <= eps
    assert stats.kstest(((radius / eps) ** n).numpy(), "uniform").pvalue > 0.01
    # The density of one coordinate of a uniform point has a closed form: the volume of the slice through it.
    u = (xi / eps).numpy()
    slices = {
        1.0: lambda t: np.where(t < 0, (1 + t) ** 3 / 2, 1 - (1 - t) ** 3 / 2),
        2.0: lambda t: (2 + 3 * t - t**3) / 4,
        math.inf: lambda t: (1 + t) / 2,
    }
    for coordinate in u.T:
        assert stats.kstest(coordinate, slices[norm]).pvalue > 0.01
    # Signs are fair and independent of each other.
    octants = np.bincount((u > 0) @ [1, 2, 4], minlength=8)
    assert stats.chisquare(octants).pvalue > 0.01
    assert abs(np.corrcoef(u.T) - np.eye(n)).max() < 0.06


@pytest.mark.parametrize("norm", NORMS)
def test_sample_in_high_dimension_is_near_the_sphere(norm: float) -> None:
    """In n dimensions the mean radius is eps n / (n + 1): nearly all of the volume is near the sphere."""
    radius = torch.linalg.vector_norm(drawn(norm, 2.0, (3, 20, 20), 20), norm, dim=1)
    assert float(radius.mean()) == pytest.approx(2.0 * 1200 / 1201, rel=2e-3)
    assert float(radius.max()) <= 2.0


def test_sample_of_an_infinite_ball_is_uniform_in_the_box() -> None:
    xi = drawn(2, math.inf, (1, 1, 1), 2000) + 0.5
    assert stats.kstest(xi.flatten().numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_sample_does_not_depend_on_the_batch(norm: float) -> None:
    center = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    eps = torch.tensor([0.0, 0.4, math.inf, 2.0])

    def draw(rows: list[int]) -> Tensor:
        return sample(center[rows], eps[rows], norm, [torch.Generator().manual_seed(10 + i) for i in rows])

    together = draw([0, 1, 2, 3])
    assert together.dtype == center.dtype
    assert torch.equal(together[0], center[0])
    assert torch.equal(draw([3, 1]), together[[3, 1]])
    for i in range(4):
        assert torch.equal(draw([i])[0], together[i])


@pytest.mark.parametrize("norm", [1, 2])
def test_steepest_has_unit_length_per_sample(norm: float) -> None:
    gradient = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-6, 1.0, 1e6]
    ).view(3, 1, 1, 1)
    h = steepest(gradient, norm)
    torch.testing.assert_close(h.flatten(1).norm(dim=1), torch.ones(3))
    assert (h * gradient >= 0).all()
    assert torch.equal(steepest(torch.zeros(1, 3, 2, 2), norm), torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1e-23, 5e-23, 1e-22, 1e-20, 1e19, 1e22, 1e30])
def test_steepest_handles_gradients_whose_squares_overflow_or_underflow(norm: float, scale: float) -> None:
    gradient = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = steepest(gradient, norm)
    mixed = torch.stack([gradient[0] * scale, gradient[1], torch.zeros(3, 4, 4)])
    found = steepest(mixed, norm)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])  # bit for bit: samples are independent
    assert not found[2].any()
    torch.testing.assert_close(steepest(gradient * scale, norm), expected)


def test_steepest_of_linf_is_the_sign() -> None:
    assert steepest(torch.tensor([[-3.0, 0.0, 1e-30]]), math.inf).tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("norm", [0, 3, -1, math.nan, "2", None])
def test_other_norms_are_refused(norm: Any) -> None:
    with pytest.raises(InputError, match=f"expected a norm of 1, 2 or inf, got {norm!r}"):
        check_norm(norm)


def on_sphere(norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points on the spheres of four balls that the pixel box does not touch."""
    rng = torch.Generator().manual_seed(11)
    center = torch.full((4, 3, 4, 4), 0.5, dtype=torch.float64)
    delta = torch.randn(center.shape, generator=rng, dtype=torch.float64)
    if norm == 1:
        delta = delta * (torch.rand(center.shape, generator=rng) < 0.3)
    eps = torch.tensor([0.1, 0.2, 0.05, 0.3], dtype=torch.float64)
    length = distance(delta, torch.zeros_like(delta), norm)
    return center + delta * (eps / length).view(-1, 1, 1, 1), center, eps


@pytest.mark.parametrize("norm", NORMS)
def test_binding_finds_points_on_the_surface(norm: float) -> None:
    """Distant points that were projected, but not points inside the ball, and none in an infinite ball."""
    rng = torch.Generator().manual_seed(0)
    center = torch.rand(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    eps = torch.tensor([0.5, 0.5, math.inf, 0.02], dtype=torch.float64)
    far = center + torch.randn(center.shape, generator=rng).sign() * torch.tensor([9.0, 0, 9, 9]).view(4, 1, 1, 1)
    x = project(far, center, eps, norm, box=None)
    assert binding(x, center, eps, norm).tolist() == [1, 0, 0, 1]
    half = torch.cat([x[..., :4], center[..., 4:]], dim=3)
    assert binding(half, center, eps, norm).tolist() == ([0.5, 0, 0, 0.5] if norm == math.inf else [0, 0, 0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_binding_allows_for_rounding(norm: float, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    center = (0.2 + 0.6 * torch.rand(2, 3, 16, 16, generator=rng)).to(dtype)
    eps = torch.tensor([8 / 255, 16 / 255], dtype=torch.float64)
    x = project((center + torch.randn(center.shape, generator=rng).sign().to(dtype)), center, eps, norm)
    assert (binding(x, center, eps, norm) > 0.99).all()
    assert (binding(center, center, eps, norm) == 0).all()


def test_tangent_of_l2_removes_the_outward_component() -> None:
    x, center, eps = on_sphere(2)
    h = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h[:2] = h[:2].abs() * (center - x)[:2].sign()  # two directions push outwards; the sign of the others is random
    along = tangent(h, x, center, eps, 2)
    radial = (along * (x - center)).flatten(1).sum(1)
    pushes = (h * (x - center)).flatten(1).sum(1) < 0
    assert pushes[:2].all()
    assert (radial[pushes].abs() < 1e-12).all()
    assert torch.equal(along[~pushes], h[~pushes])
    assert (along.flatten(1).norm(dim=1) <= h.flatten(1).norm(dim=1) + 1e-12).all()


@pytest.mark.parametrize("norm", [1, 2])
def test_tangent_vanishes_exactly_at_the_optimum(norm: float) -> None:
    """It is zero where the optimality conditions hold, and not zero where they do not."""
    x, center, eps = on_sphere(norm)
    delta = x - center
    if norm == 2:
        optimal = -3 * delta
    else:
        rest = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
        optimal = torch.where(delta != 0, -0.5 * delta.sign(), rest)  # |rest| <= 0.5
    assert tangent(optimal, x, center, eps, norm).abs().max() < 1e-12
    off = optimal.clone()
    off[:, 0, 0, 0] += 1.5
    assert (tangent(off, x, center, eps, norm).flatten(1).abs().amax(1) > 0.1).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_tangent_leaves_directions_inside_the_ball_unchanged(norm: float) -> None:
    x, center, eps = on_sphere(2 if norm == math.inf else norm)
    h = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.equal(tangent(h, x, center, 2 * eps, norm), h)
    some = tangent(h, x, center, eps * torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64), norm)
    assert torch.equal(some[1::2], h[1::2])


def test_tangent_excludes_pixels_on_the_box() -> None:
    """Pixels on a face of the box that cannot move further must not affect the balance between the others."""
    center = torch.tensor([[0.9, 0.5, 0.5]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.7, 0.5]], dtype=torch.float64)
    h = torch.tensor([[-9.0, -1.0, -1.0]], dtype=torch.float64)  # all three want to grow, the first cannot
    along = tangent(h, x, center, distance(x, center, 2), 2)
    torch.testing.assert_close(along, torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64))


def test_a_large_image_is_projected_accurately_onto_the_sphere() -> None:
    """The sum of 150,528 squares would lose digits in single precision."""
    rng = torch.Generator().manual_seed(0)
    center = torch.rand(4, 3, 224, 224, generator=rng)
    x = center + 0.1 * torch.randn(center.shape, generator=rng)
    eps = torch.tensor([0.5, 3.0, 10.0, 25.0])
    assert ((distance(project(x, center, eps, 2), center, 2) / eps - 1).abs() < 3e-7).all()
