"""The attack on a linear f, whose optimum is known (after the tests of adv-lib).

With f(x) = A x, start x0 = 0.5 and a ball too small to reach the pixel box, the attack is the trust-region
problem min ||A u - d||^2 with ||u||_p <= eps. The pseudo-inverse gives its least-norm solution; its optimum in
the ball follows from a secular equation for L2, bounded least squares for Linf, and a lasso for L1.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, lsq_linear
from sklearn.linear_model import lars_path
from torch import Tensor

from oodattack.core.attack import attack
from oodattack.core.methods import Fast
from tests.methods import WithoutWhitening

PIXELS, LATENT = 48, 6


class Linear:
    """f(x) = A x, starts at the centre of the box, and the displacement d from each latent to its target."""

    def __init__(self, samples: int = 3) -> None:
        rng = torch.Generator().manual_seed(0)
        self.A = torch.randn(LATENT, PIXELS, generator=rng, dtype=torch.float64) / math.sqrt(PIXELS)
        self.start = torch.full((samples, 3, 4, 4), 0.5, dtype=torch.float64)
        self.d = torch.randn(samples, LATENT, generator=rng, dtype=torch.float64) * 0.1
        self.target = self.f(self.start) + self.d
        self.least_norm = (self.d @ torch.linalg.pinv(self.A).T).norm(dim=1)

    def f(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.A.T

    def loss(self, latent: Tensor) -> Tensor:
        return (latent - self.target).square().sum(1)

    def optimum(self, eps: Tensor, norm: float) -> Tensor:
        """The lowest loss in the ball, per sample."""
        find = {1: _l1_optimum, 2: _l2_optimum, math.inf: _linf_optimum}[norm]
        A = self.A.numpy()
        values = [find(A, d, e) for d, e in zip(self.d.numpy(), eps.tolist(), strict=True)]
        return torch.tensor(values, dtype=torch.float64)


def _l2_optimum(A: np.ndarray, d: np.ndarray, eps: float) -> float:
    """Solves the secular equation ||(A^T A + m)^-1 A^T d|| = eps for m."""
    U, s, _ = np.linalg.svd(A, full_matrices=False)
    c = U.T @ d
    m = brentq(lambda m: np.linalg.norm(s * c / (s**2 + m)) - eps, 0, 1e6, xtol=1e-15)
    return float(np.sum((s**2 * c / (s**2 + m) - c) ** 2))


def _linf_optimum(A: np.ndarray, d: np.ndarray, eps: float) -> float:
    return 2 * float(lsq_linear(A, d, (-eps, eps), tol=1e-14).cost)


def _l1_optimum(A: np.ndarray, d: np.ndarray, eps: float) -> float:
    """The lasso min ||A u - d||^2 / 2 + m |u|_1 with the m that makes |u|_1 = eps, on its piecewise linear path."""
    _, _, path = lars_path(A, d, method="lasso")
    lengths = np.abs(path).sum(0)
    u = np.array([np.interp(eps, lengths, values) for values in path])
    return float(np.sum((A @ u - d) ** 2))


@pytest.mark.parametrize("method", ["fast", "plain"])
def test_the_target_is_reached_in_a_ball_just_large_enough(method: str) -> None:
    problem = Linear()
    result = attack(problem.f, problem.start, problem.target, eps=1.01 * problem.least_norm, steps=300, method=method)
    # Steps of constant size do not converge.
    assert (result.mape < (0.1 if method == "plain" else 1e-4) * result.start_mape).all()
    ratio = result.distance / problem.least_norm
    assert ((ratio > (0.9 if method == "plain" else 0.999)) & (ratio < 1.01 + 1e-9)).all()


@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_every_method_reaches_the_target_in_a_larger_ball(method: str) -> None:
    problem = Linear()
    result = attack(problem.f, problem.start, problem.target, eps=2 * problem.least_norm, steps=300, method=method)
    assert (result.mape < 0.05).all()
    assert (result.distance <= 2 * problem.least_norm * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("method", "share"),
    [(method, share) for method in ("fast", "plain") for share in (0.3, 0.7, 0.95)],
)
def test_l2_reaches_the_optimum_of_the_trust_region(method: str, share: float) -> None:
    problem = Linear()
    eps = share * problem.least_norm
    result = attack(problem.f, problem.start, problem.target, eps=eps, steps=300, method=method)
    ratio = problem.loss(result.latent) / problem.optimum(eps, 2)
    assert ((ratio > 1 - 1e-9) & (ratio < 1.02)).all(), ratio
    torch.testing.assert_close(result.distance, eps)


def test_an_unreachable_target_is_approached_in_unwhitened_least_squares() -> None:
    """The optimum for whitened errors is a different one; whitening therefore fades out in the last steps."""
    problem = Linear()
    U, _, V = torch.linalg.svd(problem.A, full_matrices=False)
    problem.A = U @ torch.diag(torch.logspace(0, -2, LATENT, dtype=torch.float64)) @ V
    problem.d *= 0.3
    problem.target = problem.f(problem.start) + problem.d
    eps = 0.1 * (problem.d @ torch.linalg.pinv(problem.A).T).norm(dim=1).clamp_max(1)
    result = attack(problem.f, problem.start, problem.target, eps=eps, steps=100)
    ratio = problem.loss(result.latent) / problem.optimum(eps, 2)
    assert ((ratio > 1 - 1e-9) & (ratio < 1.004)).all(), ratio


@pytest.mark.parametrize(("norm", "eps"), [(1, 0.1), (2, 0.05), (math.inf, 0.01)])
def test_whitening_does_no_harm_in_a_ball_too_small(norm: float, eps: float) -> None:
    """Not even long before the end: a run of a few steps cannot make up for bad ones."""
    problem = Linear()
    U, _, V = torch.linalg.svd(problem.A, full_matrices=False)
    problem.A = U @ torch.diag(torch.logspace(0, -1, LATENT, dtype=torch.float64)) @ V
    problem.target = problem.f(problem.start) + problem.d
    whitened, plain = (
        problem.loss(
            attack(
                problem.f,
                problem.start,
                problem.target,
                eps=eps,
                norm=norm,
                steps=8,
                method=method,
            ).latent
        )
        for method in (Fast, WithoutWhitening)
    )
    assert (whitened < 1.02 * plain).all(), whitened / plain


@pytest.mark.parametrize("eps", [0.01, 0.03])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_linf_reaches_the_optimum_of_bounded_least_squares(method: str, eps: float) -> None:
    problem = Linear()
    result = attack(problem.f, problem.start, problem.target, eps=eps, norm=math.inf, steps=400, method=method)
    ratio = problem.loss(result.latent) / problem.optimum(torch.full((3,), eps), math.inf)
    # Sign steps of constant size do not converge; the other two methods do.
    assert ((ratio > 1 - 1e-6) & (ratio < (1.2 if method == "plain" else 1.01))).all(), ratio


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_l1_reaches_the_optimum_of_the_lasso(eps: float) -> None:
    problem = Linear()
    optimum = problem.optimum(torch.full((3,), eps), 1)
    for method in ("fast", "plain"):
        result = attack(problem.f, problem.start, problem.target, eps=eps, norm=1, steps=300, method=method)
        ratio = problem.loss(result.latent) / optimum
        assert ((ratio > 1 - 1e-5) & (ratio < (1.1 if method == "plain" else 1.01))).all(), (method, ratio)


def test_a_larger_ball_is_never_worse() -> None:
    """The lowest loss falls with eps, from the loss of the start at eps = 0 to zero."""
    problem = Linear()
    losses = [
        problem.loss(
            attack(
                problem.f,
                problem.start,
                problem.target,
                eps=share * problem.least_norm,
                method="plain",
                steps=200,
            ).latent
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.05)
    ]
    assert all((larger < smaller).all() for smaller, larger in pairwise(losses))
    torch.testing.assert_close(losses[0], problem.d.square().sum(1))
