"""Whitened errors against the formula on dense matrices, and their effect."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oodattack.core.attack import attack
from oodattack.core.methods import Fast
from oodattack.core.methods.fast.whitening import (
    DECAY,
    FLOOR,
    MEMORY,
    RAW_BELOW,
    RENEWAL,
    WHITENED_ABOVE,
    RawShare,
    Whitening,
)
from tests.methods import WithoutWhitening


def path(calls: int, batch: int = 3, latent: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    """Errors (calls, B, K) along an attack: some directions move a lot, others hardly."""
    rng = torch.Generator().manual_seed(0)
    mixing = torch.randn(batch, latent, latent, generator=rng, dtype=torch.float64)
    scales = torch.logspace(0, -2, latent, dtype=torch.float64)
    steps = torch.randn(calls, batch, latent, generator=rng, dtype=torch.float64) * scales
    first = torch.randn(batch, latent, generator=rng, dtype=torch.float64)
    return (first + (steps[:, :, None] @ mixing)[:, :, 0].cumsum(0)).to(dtype)


def whitened(errors: Tensor) -> Tensor:
    whitening = Whitening()
    return torch.stack([whitening(error) for error in errors])


def dense(errors: Tensor) -> Tensor:
    """The last of one sample's errors (n, K), whitened with K x K matrices."""
    moves, latent = errors.double().diff(dim=0), errors.shape[1]
    eye = torch.eye(latent, dtype=torch.float64)
    root, number_of_moves, corrections = eye, 0, 0
    for n in range(1, len(moves) + 1):
        corrections += 1
        if corrections >= RENEWAL * number_of_moves:
            number_of_moves, corrections = min(n, MEMORY), 0
            covariance = torch.zeros(latent, latent, dtype=torch.float64)
            for age, move in enumerate(moves[n - number_of_moves : n].flip(0)):
                covariance += DECAY**age * torch.outer(move, move)
            floor, raised = (FLOOR * covariance.trace() / latent).clamp_min(1e-38), False
            root = inverse_root(eye + covariance / floor)
        else:
            covariance = DECAY * covariance + torch.outer(moves[n - 1], moves[n - 1])
            least = FLOOR * moves[n - 1].square().sum() / latent
            raised |= bool(least > DECAY * floor)
            floor = torch.maximum(DECAY * floor, least)
            u = root.T @ moves[n - 1]
            root = root @ inverse_root(eye + torch.outer(u, u) / floor)
            if not raised:  # the corrected root is a root of the same matrix as a decomposed one
                torch.testing.assert_close(root @ root.T @ (eye + covariance / floor), eye, rtol=0, atol=1e-6)
    return root @ errors[-1].double()


def inverse_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return root


@pytest.mark.parametrize(
    ("calls", "latent"),
    [(2, 7), (5, 7), (30, 7), (MEMORY + 1, 7), (2 * MEMORY + 1, 7), (2 * MEMORY + 1, 100), (4, 1), (5, 1), (2, 200)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_errors_are_divided_by_the_root_of_the_covariance(calls: int, latent: int, dtype: torch.dtype) -> None:
    """With fewer and more differences than latent components, and more than the memory holds."""
    errors = path(calls, latent=latent, dtype=dtype)
    found = whitened(errors)
    expected = torch.stack([dense(errors[:, i]) for i in range(3)])
    tolerance = 1e-7 if dtype == torch.float64 else 1e-4
    difference = torch.linalg.vector_norm(found[-1].double() - expected, dim=1)
    assert (difference <= tolerance * torch.linalg.vector_norm(errors[-1].double(), dim=1)).all()


def test_the_first_errors_are_not_whitened() -> None:
    errors = path(1)
    assert torch.equal(whitened(errors), errors)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_the_scale_of_a_latent_does_not_matter(dtype: torch.dtype, tolerance: float) -> None:
    """Every sample has its own scale, as different as those of the latents of encoders."""
    errors = path(20, dtype=dtype)
    scales = torch.tensor([1e-12, 3.0, 1e12], dtype=dtype)[:, None]
    expected, found = whitened(errors), whitened(errors * scales) / scales
    difference = torch.linalg.vector_norm(found - expected, dim=2)
    assert (difference <= tolerance * torch.linalg.vector_norm(expected, dim=2)).all()


def test_no_sample_depends_on_its_neighbours() -> None:
    errors = path(20, batch=5)
    together = whitened(errors)
    for rows in ([0], [3], [4, 1], [4, 3, 2, 1, 0]):
        torch.testing.assert_close(whitened(errors[:, rows]), together[:, rows], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_sample_does_not_stop_the_others(bad: float) -> None:
    errors = path(20)
    broken = errors.clone()
    broken[6:, 1] = bad
    torch.testing.assert_close(whitened(broken)[:, [0, 2]], whitened(errors)[:, [0, 2]], rtol=1e-10, atol=1e-12)


def test_kept_samples_continue_as_if_alone() -> None:
    """Samples that leave before the first call, before the first difference, later, and between two corrections."""
    errors = path(25, batch=6)
    whitening, rows = Whitening(), torch.arange(6)
    found: dict[int, list[Tensor]] = {i: [] for i in range(6)}
    for n, error in enumerate(errors):
        leaving = {0: 2, 1: 0, 7: 1, 19: 3}.get(n)
        if leaving is not None:
            stay = (rows != leaving).nonzero().flatten()
            rows = rows[stay]
            whitening.keep(stay)
        for i, weighted in zip(rows.tolist(), whitening(error[rows]), strict=True):
            found[i].append(weighted)
    assert [len(found[i]) for i in range(6)] == [1, 7, 0, 19, 25, 25]
    for i in (0, 1, 3, 4, 5):
        alone = whitened(errors[: len(found[i]), [i]])[:, 0]
        torch.testing.assert_close(torch.stack(found[i]), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("error", [0.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constant_errors_are_returned_unchanged(error: float, dtype: torch.dtype) -> None:
    errors = torch.full((2 * MEMORY, 2, 3), error, dtype=dtype)
    assert torch.equal(whitened(errors), errors)


def test_old_differences_are_forgotten_once_errors_are_constant() -> None:
    """At the first decomposition after the last of them has left the memory."""
    errors = path(5)
    still = torch.cat([errors, errors[-1:].expand(2 * MEMORY, -1, -1)])
    found = whitened(still)
    assert not torch.allclose(found[MEMORY], still[MEMORY])
    assert torch.equal(found[-1], still[-1])


@pytest.mark.parametrize("latent", [1, 7, 200])
def test_whitened_errors_are_shorter_and_point_the_same_way(latent: int) -> None:
    """Whitening never lengthens an error, and on this path it never reverses one."""
    errors = path(MEMORY + 10, latent=latent)
    found = whitened(errors)
    assert ((found * errors).sum(2) > 0).all()
    length = torch.linalg.vector_norm(errors, dim=2)
    assert (torch.linalg.vector_norm(found, dim=2) <= length * (1 + 1e-12)).all()


def test_whitening_speeds_up_directions_of_small_singular_values() -> None:
    """A linear f with singular values from 1 to 0.01 and equal errors: smaller errors from half the evaluations."""
    rng = torch.Generator().manual_seed(0)
    shape, latent = (4, 3, 16, 16), 12
    U = torch.linalg.qr(torch.randn(latent, latent, generator=rng, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(math.prod(shape[1:]), latent, generator=rng, dtype=torch.float64)).Q
    A = U @ torch.diag(torch.logspace(0, -2, latent, dtype=torch.float64)) @ V.T

    def f(x: Tensor) -> Tensor:
        z: Tensor = x.flatten(1) @ A.T
        return z

    start = torch.full(shape, 0.5, dtype=torch.float64)
    target = f(start) + 1e-3 * torch.randn(4, latent, generator=rng, dtype=torch.float64)
    initial = (f(start) - target).norm(dim=1)

    def remaining(steps: int, method: type[Fast]) -> Tensor:
        """The final error as a share of the initial one."""
        result = attack(f, start, target, eps=3.0, steps=steps, method=method)
        share: Tensor = (result.latent - target).norm(dim=1) / initial
        return share

    assert (remaining(200, Fast) < 0.1 * remaining(400, WithoutWhitening)).all()


@pytest.mark.parametrize("still", [0.0, 1e-5])
@pytest.mark.parametrize("latent", [1, 10])
@pytest.mark.parametrize("corrections", [1, 4])
def test_latents_that_move_again_after_standing_still_are_whitened_as_before(
    still: float, latent: int, corrections: int
) -> None:
    """With the floor of latents that hardly moved, float32 would lose all its digits."""
    rng = torch.Generator().manual_seed(0)
    calls = 2 * MEMORY + 1  # the last one decomposes again
    scales = torch.full((calls, 1, 1), still)
    scales[-1 - corrections :] = 1
    errors = 1 + (scales * torch.randn(calls, 2, latent, generator=rng)).cumsum(0)
    found = whitened(errors)
    length = torch.linalg.vector_norm(errors, dim=2)
    assert (torch.linalg.vector_norm(found, dim=2) <= length * (1 + 1e-5)).all()
    expected = torch.stack([dense(errors[:-1, i]) for i in range(2)])
    torch.testing.assert_close(found[-2].double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3, 0.5])
def test_a_scalar_that_converges_does_not_stop_the_attack(ratio: float) -> None:
    """LAPACK fails on some of its Gram matrices in float32; in closed form, whitening is a constant factor."""
    whitening, error = Whitening(), torch.tensor([[1.0], [0.1]])
    for _ in range(MEMORY):
        found = whitening(error)
        if whitening.calls > 1:
            torch.testing.assert_close(found, error / math.sqrt(1 + 1 / FLOOR), rtol=1e-2, atol=1e-9)
        error = ratio * error


def test_fast_falling_errors_stay_raw_and_slow_ones_are_whitened() -> None:
    fast, between, slow, late = (0.5,) * 6, (0.85,) * 6, (0.95,) * 6, (0.5, 0.5, 0.5, 1.0, 1.0, 0.5)
    lengths = torch.tensor([fast, between, slow, late]).cumprod(1)
    raw_share = RawShare()
    directions = torch.nn.functional.normalize(torch.randn(4, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    shares = [raw_share(directions)] + [raw_share(directions * length[:, None]) for length in lengths.T]
    torch.testing.assert_close(shares[0], torch.ones(4))
    middle = (WHITENED_ABOVE - 0.85) / (WHITENED_ABOVE - RAW_BELOW)
    torch.testing.assert_close(
        shares[-1], torch.tensor([1.0, middle, 0.0, (WHITENED_ABOVE - 0.875) / (WHITENED_ABOVE - RAW_BELOW)])
    )
    assert all((after <= before).all() for before, after in pairwise(shares))


@pytest.mark.parametrize("leave_at", [1, 2, 5])
def test_raw_shares_of_kept_samples_continue_as_if_alone(leave_at: int) -> None:
    early, late, rows = torch.tensor([0.5, 0.3, 0.6]), torch.tensor([0.95, 0.9, 0.97]), torch.tensor([2, 0])
    errors = torch.stack([torch.ones(3), *5 * [early], *2 * [late]]).cumprod(0)[:, :, None]
    together, alone = RawShare(), RawShare()
    for n, error in enumerate(errors):
        if n == leave_at:
            together.keep(rows)
        share = together(error if n < leave_at else error[rows])
        expected = alone(error[rows])
    assert bool(((expected > 0.1) & (expected < 0.9)).all())
    torch.testing.assert_close(share, expected)
