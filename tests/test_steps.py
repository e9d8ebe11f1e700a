"""Step rules against torch's own optimizers."""

import math

import pytest
import torch
from torch import Tensor

from oodattack.core.ball import per_sample
from oodattack.core.methods.fast.nadam import CosineNadam, polyak_share
from oodattack.core.steps import Adamax

Rule = Adamax | CosineNadam

STEPS = 25


def directions(count: int = STEPS, batch: int = 3) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(count, batch, 3, 4, 4, generator=rng, dtype=torch.float64)
    draws[:, :, 0, 0, 0] = 0  # a pixel that f ignores
    return [*draws]


def torch_trajectory(optimizer: torch.optim.Optimizer, x: Tensor, *, cosine: bool, steps: int = STEPS) -> list[Tensor]:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps) if cosine else None
    path = []
    for direction in directions(steps):
        x.grad = direction.clone()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        path.append(x.detach().clone())
    return path


def our_trajectory(rule: Rule, x: Tensor, steps: int = STEPS) -> list[Tensor]:
    path = []
    for direction in directions(steps):
        x = x - rule.step(direction)
        path.append(x)
    return path


def test_adamax_equals_torchs() -> None:
    x = torch.zeros(3, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    expected = torch_trajectory(torch.optim.Adamax([x], lr=0.02), x, cosine=False)
    rule = Adamax(torch.full((3,), 0.02, dtype=torch.float64))
    found = our_trajectory(rule, torch.zeros(3, 3, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("steps", [STEPS, 100])
def test_cosine_nadam_equals_torchs_nadam_with_a_cosine_schedule(steps: int) -> None:
    x = torch.zeros(3, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    rule = CosineNadam(torch.full((3,), 0.02, dtype=torch.float64), steps, betas=(0.8, 0.95))
    # Torch's momentum grows from half of beta1; with this decay it is beta1 from the first step.
    nadam = torch.optim.NAdam([x], lr=0.02, betas=(0.8, 0.95), momentum_decay=1e6)
    expected = torch_trajectory(nadam, x, cosine=True, steps=steps)
    found = our_trajectory(rule, torch.zeros(3, 3, 4, 4, dtype=torch.float64), steps)
    # Torch keeps the product of its momenta in float32.
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-6, atol=1e-7)


def rules(step_size: Tensor) -> dict[str, Rule]:
    return {"adamax": Adamax(step_size), "cosine": CosineNadam(step_size, STEPS)}


@pytest.mark.parametrize("name", ["adamax", "cosine"])
def test_kept_samples_continue_as_if_alone(name: str) -> None:
    """Samples with different step sizes that leave at different times, one of them before the first step."""
    sizes = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    draws = directions(batch=4)
    together, rows = rules(sizes)[name], torch.arange(4)
    found: dict[int, list[Tensor]] = {i: [] for i in range(4)}
    for n, direction in enumerate(draws):
        leaving = {0: 3, 5: 0, 11: 2}.get(n)
        if leaving is not None:
            stay = (rows != leaving).nonzero().flatten()
            rows = rows[stay]
            together.keep(stay)
        for i, step in zip(rows.tolist(), together.step(direction[rows]), strict=True):
            found[i].append(step)
    for i in range(4):
        alone = rules(sizes[i : i + 1])[name]
        for n, step in enumerate(found[i]):
            torch.testing.assert_close(step, alone.step(draws[n][i : i + 1])[0], rtol=1e-12, atol=0)
    assert [len(found[i]) for i in range(4)] == [5, STEPS, 11, 0]


@pytest.mark.parametrize(("steps", "power"), [(10, 1), (100, 1), (10000, 2)])
def test_the_step_size_decays_to_nearly_zero(steps: int, power: int) -> None:
    """Along a half cosine or, in long runs, along its square, which falls sooner."""
    # Without momentum, and with equal directions, every step equals the step size.
    rule = CosineNadam(torch.tensor([0.1], dtype=torch.float64), steps, betas=(0.0, 0.99))
    sizes = [rule.step(torch.ones(1, 1, dtype=torch.float64)).item() for _ in range(steps)]
    expected = [0.1 * ((1 + math.cos(math.pi * n / steps)) / 2) ** power for n in range(steps)]
    assert sizes == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["adamax", "cosine"])
def test_a_zero_direction_gives_a_zero_step(name: str) -> None:
    rule = rules(torch.tensor([0.1]))[name]
    assert torch.equal(rule.step(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def test_a_step_is_limited_to_where_a_linear_loss_reaches_zero() -> None:
    """Shorter steps are not changed, nor are steps whose loss, weighted by whitening, is negative."""
    rng = torch.Generator().manual_seed(0)
    gradient = torch.randn(3, 3, 4, 4, generator=rng, dtype=torch.float64)
    step = gradient * torch.tensor([1.0, 1e-3, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    loss = torch.tensor([2.0, 2.0, -2.0], dtype=torch.float64)
    share = polyak_share(step, loss, gradient)
    assert (gradient * step * per_sample(share, step))[0].sum().item() == pytest.approx(2.0)
    assert share[1:].tolist() == [1, 1]


@pytest.mark.parametrize("angle", [1.3, math.pi / 2, math.pi])
def test_a_step_that_hardly_descends_is_not_much_longer_than_polyaks(angle: float) -> None:
    """At most 2.5 times as long as the step along the gradient that takes a linear loss to zero."""
    gradient = torch.tensor([[4.0, 0.0]], dtype=torch.float64)
    direction = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    loss = torch.tensor([2.0], dtype=torch.float64)
    for length in (1.0, 1.5, 20.0):
        limited = length * polyak_share(length * direction, loss, gradient)
        assert limited.item() == pytest.approx(min(length, 2.5 * 2 / 4))
