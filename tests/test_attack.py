"""The contract of `attack`: one problem a sample, the best image kept, the work counted, the messages."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodattack import AttackResult, Method, attack, dequantize, mape, quantize
from oodattack.core.ball import distance
from oodattack.core.errors import InputError
from oodattack.core.gradient import Pass, Spsa
from oodattack.core.methods import Fast, Paper, Plain, get_method
from oodattack.core.methods.fast.whitening import RawShare, Whitening
from oodattack.core.methods.method import generator
from tests.methods import Uncut

LATENT = 5


def make_encoder(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A smooth nonlinear f of (B, 3, 4, 4) images, whose rounding ignores the batch size."""
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(48, 16, generator=rng, dtype=torch.float64).to(dtype) / 4
    second = torch.randn(16, LATENT, generator=rng, dtype=torch.float64).to(dtype) / 3

    def f(x: Tensor) -> Tensor:
        hidden = torch.tanh((x.flatten(1)[:, :, None] * first).sum(1))
        return (hidden[:, :, None] * second).sum(1) * scale

    return f


def make_images(batch: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def grid_images(batch: int, seed: int) -> Tensor:
    return dequantize(quantize(make_images(batch, seed)))


class Counting:
    """f, and how many images went through it with and without a gradient."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f, self.with_gradient, self.without = f, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.with_gradient += len(x)
        else:
            self.without += len(x)
        return self.f(x)


FIELDS = (
    "image",
    "latent",
    "mape",
    "distance",
    "gradient_evaluations",
    "forward_evaluations",
    "restart",
    "history",
)


def assert_same(one: AttackResult, other: AttackResult, rows: list[int]) -> None:
    """``one`` is the ``rows`` of ``other``."""
    for field in FIELDS:
        a, b = getattr(one, field), getattr(other, field)[rows]
        assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-10, equal_nan=True), field


@pytest.mark.parametrize("gradient", ["autograd", Spsa(directions=3)])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper"])
def test_a_sample_does_not_depend_on_its_batch(method: str, norm: float, gradient: Any) -> None:
    """1, 3 and 8 at once and in any order, with restarts, random starts, and samples that leave early."""
    f, start, target = make_encoder(), make_images(8, 1), make_encoder()(make_images(8, 2))
    eps = torch.linspace(0.05, 1.5, 8, dtype=torch.float64) * {1: 5.0, 2: 1.0, math.inf: 0.2}[norm]
    spsa = gradient != "autograd"

    def run(rows: list[int]) -> AttackResult:
        return attack(
            f,
            start[rows],
            target[rows],
            eps=eps[rows],
            norm=norm,
            steps=15,
            method=method,
            step_size=0.05,
            restarts=2,
            tolerance=0.1 if spsa else {"fast": 0.01, "paper": 0.03}[method],
            seed=[100 + i for i in rows],
            gradient=gradient,
        )

    together = run([*range(8)])
    work = together.forward_evaluations if spsa else together.gradient_evaluations
    assert len(set(work.tolist())) > 2, "the test wants samples that leave at different times"
    for rows in ([0], [3], [7], [6, 1, 4], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert_same(run(rows), together, rows)


def test_one_seed_for_all_is_that_seed_for_each() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    settings: dict[str, Any] = {"eps": 0.5, "steps": 5, "method": "paper"}
    one = attack(f, start, target, seed=7, **settings)
    assert_same(one, attack(f, start, target, seed=[7, 7], **settings), [0, 1])
    assert not torch.allclose(one.image, attack(f, start, target, seed=8, **settings).image)
    assert torch.equal(one.image, attack(f, start, target, seed=7, **settings).image)


def papers_algorithm(f: Callable[[Tensor], Tensor], x0: Tensor, t: Tensor, eps: float, steps: int, seed: int) -> Tensor:
    """Algorithm 1 as its authors wrote it, with torch's optimizer on the perturbation: a second hand.

    One image. The random xi is uniform in [-eps, eps] a pixel, from the same stream of numbers as ours.
    """

    def clip(delta: Tensor) -> Tensor:
        delta = delta * min(1.0, eps / float(delta.norm()))
        return (x0 + delta).clamp(0, 1) - x0

    xi = (torch.rand(x0.numel(), generator=generator(seed, 0), dtype=torch.float64) * 2 - 1) * eps
    delta = clip(xi.view_as(x0)).requires_grad_(True)
    optimizer = torch.optim.Adamax([delta], lr=eps / 100)
    for _ in range(steps):
        loss = (f(x0 + delta) - t).square().sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        delta.grad = gradient / gradient.norm()
        optimizer.step()
        with torch.no_grad():
            delta.copy_(clip(delta))
    return (x0 + delta).detach()


@pytest.mark.parametrize("eps", [0.3, 1.0, 4.0])
def test_paper_is_algorithm_1(eps: float) -> None:
    f, start, target = make_encoder(), make_images(3, 1), make_encoder()(make_images(3, 2))
    result = attack(f, start, target, eps=eps, steps=60, method="paper", seed=[5, 6, 7])
    for i in range(3):
        expected = papers_algorithm(f, start[i : i + 1], target[i : i + 1], eps, 60, seed=5 + i)
        torch.testing.assert_close(result.image[i : i + 1], expected, rtol=0, atol=1e-8)


def test_paper_returns_its_last_image_and_fast_its_best() -> None:
    """A step from one wall of the box to the other: the best image is not the last."""

    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None]

    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    target = torch.tensor([[0.4], [0.7]], dtype=torch.float64)
    settings: dict[str, Any] = {"eps": math.inf, "steps": 4, "step_size": 100.0}

    class Last(Plain):
        keeps_best = False

    best = attack(f, start, target, method=Plain, **settings)
    torch.testing.assert_close(best.mape, mape(f(best.image), target))
    assert (best.mape <= best.start_mape).all()
    losses = (best.history[:, -1] > best.history.nanquantile(0, dim=1)).tolist()
    assert all(losses), "the test wants runs that end above their best"
    last = attack(f, start, target, method=Last, **settings)
    torch.testing.assert_close(last.history, best.history)
    torch.testing.assert_close(last.mape, last.history[:, -1])
    assert (best.mape < last.mape).all()


def test_the_last_image_counts_if_it_is_the_best() -> None:
    """With one step, the only image that is better than the start is the one after it."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=1.0, steps=1, step_size=0.01)
    assert (result.mape < result.start_mape).all()
    assert (result.distance > 0).all()


class Scripted:
    """A gradient that costs one evaluation and matters to no one."""

    passes, forwards = 1, 0

    def __call__(self, f: Any, x: Tensor, generators: Any) -> Any:
        return f(x), lambda _weights: torch.ones_like(x)


def scripted(shown: list[int]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """An f that errs from its target, one call after the other, by the first error or the second.

    J is quadratic, MAPE is not: (2, 2, 2, 2) has the lower J, (4.5, 0, 0, 0) the lower MAPE.
    """
    errors = torch.tensor([[2.0, 2.0, 2.0, 2.0], [4.5, 0.0, 0.0, 0.0]])
    calls = iter(shown)
    return lambda x: 10 + errors[next(calls)].expand(len(x), 4), torch.full((1, 4), 10.0)


def test_an_image_within_the_tolerance_counts_even_if_an_earlier_one_has_the_lower_loss() -> None:
    f, target = scripted([1, 0, 1, 1, 1])  # f(start), then the steps
    result = attack(
        f, torch.rand(1, 3, 2, 2), target, eps=1.0, steps=5, tolerance=0.15, gradient=Scripted(), check=False
    )
    assert result.float_mape.item() == pytest.approx(4.5 / 4 / 10)
    assert result.gradient_evaluations.item() == 2


def test_the_tolerance_stops_a_sample_and_no_later() -> None:
    f, start, target = make_encoder(), make_images(4, 1), make_encoder()(make_images(4, 2))
    result = attack(f, start, target, eps=2.0, steps=50, tolerance=0.05)
    assert (result.mape <= 0.05).all()
    for i, spent in enumerate(result.gradient_evaluations.tolist()):
        assert spent < 50
        history = result.history[i]
        assert history.isfinite().sum() == spent
        assert history[spent - 1] <= 0.05
        assert (history[: spent - 1] > 0.05).all()
        assert history[spent:].isnan().all()
    torch.testing.assert_close(result.history[:, 0], result.start_mape)


def test_a_start_that_is_there_already_costs_one_evaluation() -> None:
    f, start = make_encoder(), make_images(2, 1)
    result = attack(f, start, f(start), eps=1.0, restarts=3)
    assert torch.equal(result.image, start)
    assert result.gradient_evaluations.tolist() == [1, 1]
    assert result.forward_evaluations.tolist() == [2, 2]
    assert result.mape.tolist() == [0, 0]


@pytest.mark.parametrize("pixels", [None, 256])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_history_is_the_mape_after_each_step_of_the_winning_try(method: str, pixels: int | None) -> None:
    f, start, target = make_encoder(), grid_images(3, 1).double(), make_encoder()(make_images(3, 2))
    result = attack(f, start, target, eps=1.0, steps=12, method=method, restarts=3, pixels=pixels)
    assert result.history.shape == (3, 13)
    assert result.history.isfinite().all()
    reached = result.history[:, -1] if method == "paper" else result.history.min(dim=1).values
    # `fast` and `plain` keep the least J, which need not be the least MAPE.
    assert (result.float_mape >= reached - 1e-12).all()
    assert all(value in row for value, row in zip(result.float_mape.tolist(), result.history.tolist(), strict=True))
    if method == "paper":
        torch.testing.assert_close(result.float_mape, reached)


@pytest.mark.parametrize("method", ["fast", "paper"])
def test_work_is_counted_as_f_sees_it(method: str) -> None:
    """Every image that goes through f is on the bill, restarts and early ends included."""
    counting = Counting(make_encoder())
    start, target = make_images(6, 1), make_encoder()(make_images(6, 2))
    eps = [0.0, 0.05, 0.5, 1.0, 2.0, 3.0]
    result = attack(counting, start, target, eps=eps, steps=10, method=method, restarts=3, tolerance=0.05, check=False)
    assert counting.with_gradient == int(result.gradient_evaluations.sum())
    assert counting.without == int(result.forward_evaluations.sum())
    # Samples 0 and 1 cannot arrive: all three tries, and the last image of each, the start and the result.
    assert result.gradient_evaluations[:2].tolist() == [30, 30]
    assert result.forward_evaluations[:2].tolist() == [5, 5]
    # One that arrived in its first try has run no second.
    first = (result.restart == 0) & (result.mape <= 0.05)
    assert first.any()
    assert (result.gradient_evaluations[first] <= 10).all()


def test_work_of_spsa_is_forward_passes() -> None:
    counting = Counting(make_encoder())
    start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(counting, start, target, eps=0.5, steps=4, gradient=Spsa(3), check=False)
    assert counting.with_gradient == 0
    assert counting.without == int(result.forward_evaluations.sum()) == 2 * (4 * 7 + 3)
    assert result.gradient_evaluations.tolist() == [0, 0]


def test_restarts_are_for_the_unsolved_and_the_best_try_wins() -> None:
    f, start, target = make_encoder(), make_images(6, 1), make_encoder()(make_images(6, 2))
    settings: dict[str, Any] = {"eps": 1.0, "steps": 6, "tolerance": 0.05, "seed": 3}
    results = [attack(f, start, target, restarts=n, **settings) for n in (1, 2, 5)]
    losses = [(result.latent - target).square().sum(1) for result in results]
    assert all((later <= sooner + 1e-12).all() for sooner, later in pairwise(losses))
    once, _, many = results
    solved = once.mape <= 0.05
    assert solved.any()
    assert not solved.all()
    assert torch.equal(many.image[solved], once.image[solved])
    assert torch.equal(many.gradient_evaluations[solved], once.gradient_evaluations[solved])
    assert (many.restart[~solved] > 0).any()


@pytest.mark.parametrize("step_size", [None, 0.2])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_a_ball_of_zero_returns_the_start(method: str, norm: float, step_size: float | None) -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=0, norm=norm, steps=5, method=method, step_size=step_size, restarts=2)
    assert torch.equal(result.image, start)
    assert result.distance.tolist() == [0, 0]
    torch.testing.assert_close(result.mape, result.start_mape)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_an_infinite_ball_leaves_the_pixel_box(method: str, norm: float) -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=math.inf, norm=norm, steps=100, method=method)
    assert ((result.image >= 0) & (result.image <= 1)).all()
    assert (result.mape < result.start_mape).all()


@pytest.mark.parametrize("pixels", [None, 256])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_each_sample_keeps_to_its_own_ball(method: str, norm: float, pixels: int | None) -> None:
    """In float32, with starts on the walls of the box, huge steps, and restarts."""
    f, start = make_encoder(torch.float32), grid_images(4, 1)
    start[:, :, :2] = start[:, :, :2].round()
    target = f(make_images(4, 2, torch.float32))
    eps = [0.0, 4 / 255, 0.3, math.inf]
    result = attack(
        f, start, target, eps=eps, norm=norm, steps=8, method=method, step_size=0.3, restarts=2, pixels=pixels
    )
    assert result.image.dtype == torch.float32
    for image, length in ((result.image, result.distance), (result.float_image, result.float_distance)):
        assert ((image >= 0) & (image <= 1)).all()
        assert (length <= torch.tensor(eps, dtype=torch.float64) * (1 + 1e-6) + 1e-6).all()
        torch.testing.assert_close(length, distance(image, start, norm))
    assert torch.equal(result.image[0], start[0])
    torch.testing.assert_close(result.latent, f(result.image))
    torch.testing.assert_close(result.mape, mape(f(result.image), target))
    torch.testing.assert_close(result.float_mape, mape(f(result.float_image), target))
    torch.testing.assert_close(result.start_mape, mape(f(start), target))
    torch.testing.assert_close(result.start_latent, f(start))
    assert result.start_distance.tolist() == [0] * 4


def test_the_8_bit_result_is_measured_on_the_decoded_image() -> None:
    f, start = make_encoder(torch.float32), grid_images(3, 1)
    target = f(make_images(3, 2, torch.float32))
    result = attack(f, start, target, eps=0.5, steps=60, pixels=256)
    assert torch.equal(result.image, dequantize(quantize(result.image)))
    assert not torch.equal(result.float_image, result.image)
    torch.testing.assert_close(result.mape, mape(f(result.image), target))
    torch.testing.assert_close(result.float_mape, mape(f(result.float_image), target))
    assert not torch.equal(result.mape, result.float_mape)
    plain = attack(f, start, target, eps=0.5, steps=60)
    assert torch.equal(plain.image, plain.float_image)
    assert torch.equal(plain.image, result.float_image)


def test_f_may_give_one_number_per_image() -> None:
    """A detector's score or a likelihood, K = 1."""

    def score(x: Tensor) -> Tensor:
        return make_encoder()(x).square().sum(1)

    start = make_images(3, 1)
    target = score(make_images(3, 2))
    result = attack(score, start, target, eps=1.0, steps=60)
    assert result.latent.shape == result.start_latent.shape == (3,)
    assert result.mape.shape == (3,)
    assert result.part_mape.shape == (3, 1)
    assert (result.mape < 0.01).all()


def test_a_target_of_zero_has_no_mape_but_is_attacked() -> None:
    f, start = make_encoder(), make_images(2, 1)
    target = torch.stack([torch.zeros(LATENT, dtype=torch.float64), f(make_images(1, 2))[0]])
    result = attack(f, start, target, eps=3.0, steps=50, tolerance=0.01)
    assert result.mape.isnan().tolist() == [True, False]
    assert result.notes[0].startswith("z_in is all zeros")
    assert result.notes[1] == ""
    assert float(result.latent[0].norm()) < 0.1 * float(result.start_latent[0].norm())


def two_scales(x: Tensor) -> Tensor:
    """Two layers read at once, the second 10,000 times the first."""
    z = make_encoder()(x)
    return torch.cat([z[:, :2], 1e4 * z[:, 2:]], dim=1)


def test_parts_keep_the_large_from_drowning_the_small() -> None:
    start, target = make_images(3, 1), two_scales(make_images(3, 2))
    weighted = attack(two_scales, start, target, eps=3.0, steps=40, parts=[2, 3])
    drowned = attack(two_scales, start, target, eps=3.0, steps=40)
    assert weighted.part_mape.shape == (3, 2)
    assert drowned.part_mape.shape == (3, 1)
    assert (weighted.part_mape < 0.02).all()
    first_part = mape(drowned.latent[:, :2], target[:, :2])
    assert (first_part > 5 * weighted.part_mape[:, 0]).all()


def test_the_worst_part_decides_when_a_sample_is_finished() -> None:
    """A small part that is far off hides in the MAPE of the whole: the sample is attacked all the same."""
    start = make_images(3, 1)
    target = two_scales(start)
    target[:, :2] = two_scales(make_images(3, 2))[:, :2]
    assert (mape(two_scales(start), target) < 0.01).all()
    result = attack(two_scales, start, target, eps=3.0, steps=80, parts=[2, 3], tolerance=0.01)
    assert (result.gradient_evaluations > 1).all()
    assert (result.part_mape < 0.01).all()


def test_a_part_whose_target_is_zero_is_still_reached() -> None:
    """The forbidden part of a latent: its target is 0, its scale is that of its first error."""
    start, target = make_images(2, 1), two_scales(make_images(2, 2))
    target[:, :2] = 0
    result = attack(two_scales, start, target, eps=2.0, steps=100, parts=[2, 3])
    assert result.part_mape[:, 0].isnan().all()
    assert (result.part_mape[:, 1] < 0.05).all()
    assert (result.latent[:, :2].abs() < 0.05 * result.start_latent[:, :2].abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1e12, 1e20])
def test_the_scale_of_the_latent_does_not_matter_in_float32(scale: float) -> None:
    """Squares of small probabilities and of large energies leave the range of float32."""
    f, one = make_encoder(torch.float32, scale), make_encoder(torch.float32)
    start, x_in = make_images(2, 1, torch.float32), make_images(2, 2, torch.float32)
    result = attack(f, start, f(x_in), eps=3.0, steps=60)
    expected = attack(one, start, one(x_in), eps=3.0, steps=60)
    assert (expected.mape < 0.01).all()
    torch.testing.assert_close(result.mape, expected.mape, rtol=0, atol=1e-3)


def test_a_sample_whose_gradient_becomes_non_finite_leaves_alone() -> None:
    """f becomes NaN where the first pixel exceeds 0.6: that sample keeps a good image, the other continues."""
    encoder = make_encoder()

    def f(x: Tensor) -> Tensor:
        return encoder(x) + (0.6 - x[:, :1, 0, 0]).sqrt() * torch.tensor([1.0, 0, 0, 0, 0], dtype=x.dtype)

    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    start[1, 0, 0, 0] = 0.0
    target = f(start).clone()
    target[0, 0] -= 5.0  # draws the first pixel of sample 0 over the edge
    target[1] = encoder(make_images(1, 2))[0]
    result = attack(f, start, target, eps=1.0, steps=30, step_size=0.05)
    assert result.image.isfinite().all()
    assert result.mape.isfinite().all()
    assert result.mape[0] < result.start_mape[0]
    assert result.gradient_evaluations[0] < 30
    assert result.gradient_evaluations[1] == 30
    assert result.notes == ("stopped where f has a gradient of NaN or infinity", "")


def test_a_try_that_had_to_stop_is_reported_if_it_counts() -> None:
    """f has no gradient at the start itself, which only the first try sees."""
    start = make_images(2, 1)

    def f(x: Tensor) -> Tensor:
        away = (x - start[:1]).square().sum((1, 2, 3)).sqrt()  # its slope is 0 / 0 at the first start
        return torch.stack([x.mean((1, 2, 3)), 0 * away], dim=1)

    target = torch.tensor([[0.6, 0.0], [0.6, 0.0]], dtype=torch.float64)
    once = attack(f, start, target, eps=2.0, steps=20, check=False)
    assert once.notes == ("stopped where f has a gradient of NaN or infinity", "")
    assert once.gradient_evaluations.tolist() == [1, 20]
    assert once.mape.isfinite().all()
    again = attack(f, start, target, eps=2.0, steps=20, restarts=2, check=False)
    assert again.notes == ("", "")
    assert again.restart.tolist()[0] == 1
    assert again.mape[0] < once.mape[0]


def test_a_try_of_nan_from_its_beginning_is_reported() -> None:
    start = make_images(2, 1)

    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + 0 * (-(x - start).square().sum((1, 2, 3))).sqrt()  # NaN but at the starts

    result = attack(f, start, torch.full((2,), 0.6, dtype=torch.float64), eps=2.0, method="paper", check=False)
    assert torch.equal(result.image, start)
    assert result.notes == ("stopped where f has a gradient of NaN or infinity",) * 2


@pytest.mark.parametrize("parts", [None, [1, 1]])
@pytest.mark.parametrize("target", [1e-12, 1e-22, 1e-32])
def test_a_target_next_to_zero_is_attacked(target: float, parts: list[int] | None) -> None:
    """The squares of errors in units of such a target leave the range of float32."""

    def f(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean**3, mean], dim=1) if parts else mean**3

    start = torch.full((1, 3, 4, 4), 0.5)
    wanted = torch.tensor([[target, 0.01]]) if parts else torch.tensor([target])
    result = attack(f, start, wanted, eps=math.inf, steps=60, parts=parts)
    assert result.gradient_evaluations.item() > 1
    assert result.latent.flatten()[0] < 1e-5  # of 0.125
    if parts:
        assert result.latent[0, 1] < 0.02


def test_the_callback_is_called_after_every_step_with_values_to_keep() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    heard: list[tuple[int, Tensor]] = []
    result = attack(f, start, target, eps=1.0, steps=6, restarts=2, callback=lambda n, m: heard.append((n, m)))
    assert [n for n, _ in heard] == [1, 2, 3, 4, 5, 6] * 2
    so_far = torch.stack([m for _, m in heard])
    assert so_far.shape == (12, 2)
    assert (so_far[0] > so_far[5]).all()
    last_try = so_far[-1][result.restart == 1]
    assert (last_try >= result.mape[result.restart == 1] - 1e-12).all()


def test_a_users_method_overrides_verbs() -> None:
    """Each verb is called where the algorithm says."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    calls = []

    class Mine(Method):
        def start(self) -> Tensor:
            return self.clip(self.draw())

        def draw(self) -> Tensor:
            calls.append("draw")
            return self.problem.start + 0.01

        def look(self, x: Tensor, n: int) -> Pass:
            calls.append(f"look {n}")
            return super().look(x, n)

        def push(self, x: Tensor, error: Tensor, n: int) -> Tensor:
            calls.append("push")
            return super().push(x, error, n)

        def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
            calls.append("direction")
            return gradient.sign()

        def step(self, x: Tensor, h: Tensor, gradient: Tensor) -> Tensor:
            calls.append("step")
            return super().step(x, h, gradient)

        def clip(self, x: Tensor) -> Tensor:
            calls.append("clip")
            return super().clip(x)

    result = attack(f, start, target, eps=1.0, steps=2, method=Mine, step_size=0.001)
    step = ["push", "direction", "step", "clip"]
    assert calls == ["draw", "clip", "look 0", *step, "look 1", *step]
    assert result.history.isfinite().all()


def test_methods_have_names() -> None:
    assert get_method("fast") is Fast
    assert get_method("paper") is Paper
    assert get_method("plain") is Plain
    assert get_method(Paper) is Paper
    with pytest.raises(TypeError, match="subclass of Method"):
        get_method(Paper.clip)  # type: ignore[arg-type]


def test_default_step_sizes_are_finite_for_every_ball() -> None:
    eps = torch.tensor([0.0, 1e-3, 1.0, math.inf], dtype=torch.float64)
    for method in (Fast, Paper, Plain):
        for norm in (1.0, 2.0, math.inf):
            alpha = method.default_step_size(eps, 48, norm, 100)
            assert alpha.isfinite().all()
            assert alpha[0] == 0
            assert (alpha.diff() >= 0).all()
    assert Paper.default_step_size(torch.tensor([10.0]), 150528, 2.0, 100).item() == pytest.approx(0.1)
    longer, shorter = Fast.default_step_size(eps, 48, 2.0, 400), Fast.default_step_size(eps, 48, 2.0, 100)
    torch.testing.assert_close(longer[3], shorter[3] / 4)  # the same way in all
    # A small ball holds steps of any length: 2.4 times what it allows a pixel when all move alike.
    assert longer[1] == shorter[1] == pytest.approx(2.4e-3 / math.sqrt(48))
    # In a run of few steps each is so long that the start's surroundings are left.
    widest = [Fast.default_step_size(eps, 48, 2.0, steps)[3].item() for steps in (1, 5, 10, 20, 50, 100, 400, 1600)]
    assert widest == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.12, 0.06, 0.015, 0.0075])


def test_an_error_that_falls_fast_is_pushed_on_as_it_is() -> None:
    """A linear f that all directions move alike: at first a step of Polyak's length about halves the error."""
    rng = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(48, LATENT, generator=rng, dtype=torch.float64)).Q
    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    target = start.flatten(1) @ A + 0.1 * torch.randn(2, LATENT, generator=rng, dtype=torch.float64)
    errors: list[Tensor] = []
    pushes: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        z: Tensor = x.flatten(1) @ A
        if z.requires_grad:
            error = z.detach() - target
            errors.append(error.norm(dim=1))
            z.register_hook(lambda push: pushes.append(torch.cosine_similarity(push, error, dim=1)))  # type: ignore[no-untyped-call]
        return z

    attack(f, start, target, eps=math.inf, steps=40, check=False)
    assert all((after < 0.7 * before).all() for before, after in pairwise(errors[:7]))
    assert torch.stack(pushes[:7]).min() > 1 - 1e-6


def test_near_seeds_and_tries_give_unrelated_streams() -> None:
    first = torch.stack(
        [torch.rand(2000, generator=generator(s, a)) for s, a in ((0, 0), (0, 1), (1, 0), (10, 0), (1, 1))]
    )
    assert float((torch.corrcoef(first) - torch.eye(5)).abs().max()) < 0.1


def test_tensors_of_inference_mode_are_welcome() -> None:
    with torch.inference_mode():
        start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(make_encoder(), start, target, eps=1.0, steps=3, parts=[2, 3])
    assert (result.mape < result.start_mape).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_images_of_any_memory_layout_are_worked_on_in_one(norm: float) -> None:
    """The loop's arithmetic on flat images would copy others in each step."""
    seen: list[bool] = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous())
        return x.mean((2, 3))

    start = torch.rand(2, 3, 8, 8)
    given: dict[str, Any] = {"eps": 0.5, "norm": norm, "steps": 5, "check": False}
    expected = attack(f, start, f(torch.ones_like(start)), initial=start, **given)
    turned = start.to(memory_format=torch.channels_last)
    found = attack(f, turned, f(torch.ones_like(start)), initial=turned, **given)
    assert all(seen)
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=0)


def test_the_arguments_are_left_as_they_were() -> None:
    start, target = make_images(2, 1).requires_grad_(True), make_encoder()(make_images(2, 2))
    before = start.detach().clone(), target.clone()
    eps = torch.tensor([0.5, 1.0])
    result = attack(make_encoder(), start, target, eps=eps, steps=5, method="paper")
    result.image.fill_(9)
    assert torch.equal(start.detach(), before[0])
    assert torch.equal(target, before[1])
    assert eps.tolist() == [0.5, 1.0]
    assert start.requires_grad
    assert start.grad is None


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"eps": -1.0}, InputError, "expected eps >= 0, got -1"),
    ({"eps": [0.1, math.nan]}, InputError, "expected eps >= 0, got nan"),
    ({"eps": [0.1, 0.2, 0.3]}, InputError, r"expected one eps, or one per sample \(2\), got shape \(3,\)"),
    ({"norm": 3}, InputError, "expected a norm of 1, 2 or inf, got 3"),
    ({"steps": 0}, InputError, "expected steps as a whole number of at least 1, got 0"),
    ({"steps": 2.5}, InputError, "expected steps as a whole number of at least 1, got 2.5"),
    ({"steps": True}, InputError, "expected steps as a whole number of at least 1, got True"),
    ({"restarts": 0}, InputError, "expected restarts as a whole number of at least 1, got 0"),
    ({"tolerance": -0.1}, InputError, r"expected a tolerance >= 0 \(a MAPE: 0.001 is 0.1 %\), got -0.1"),
    ({"tolerance": math.nan}, InputError, "expected a tolerance >= 0.*got nan"),
    ({"pixels": 255}, InputError, r"expected pixels=256 \(the 8-bit grid\) or None.*got 255"),
    ({"step_size": 0.0}, InputError, "expected a positive step_size, one for all samples, got 0.0"),
    ({"step_size": math.inf}, InputError, "expected a positive step_size, one for all samples, got inf"),
    (
        {"step_size": torch.tensor([0.1, 0.1])},
        InputError,
        r"expected a positive step_size, one for all samples, got tensor\(",
    ),
    ({"tolerance": torch.tensor([0.1, 0.1])}, InputError, r"expected a tolerance >= 0 .*, got tensor\("),
    ({"gradient": None}, TypeError, "expected gradient as 'autograd', 'spsa' or a Spsa, got None"),
    ({"seed": 1.5}, TypeError, "expected seed as a whole number, or one per sample, got 1.5"),
    ({"seed": None}, TypeError, "expected seed as a whole number, or one per sample, got None"),
    ({"seed": ["a", "b"]}, TypeError, "expected seed as a whole number, or one per sample"),
    (
        {"method": "fasst"},
        InputError,
        "expected method 'fast', 'paper' or 'plain', got 'fasst'; did you mean 'fast'?",
    ),
    ({"method": "pgd-40"}, InputError, "expected method 'fast', 'paper' or 'plain', got 'pgd-40'$"),
    ({"gradient": "exact"}, InputError, "expected gradient 'autograd' or 'spsa', got 'exact'"),
    ({"parts": [2, 2]}, InputError, r"expected positive parts that add up to the latent's 5, got \(2, 2\)"),
    ({"parts": [5, 0]}, InputError, r"expected positive parts that add up to the latent's 5, got \(5, 0\)"),
    ({"parts": []}, InputError, r"expected positive parts .* got \(\)"),
    ({"seed": [1, 2, 3]}, InputError, r"expected one seed, or one per sample \(2\), got 3"),
    (
        {"target": torch.zeros(2, 4)},
        InputError,
        r"expected target of shape \(2, 5\), which f gives for start, got \(2, 4\)",
    ),
    ({"target": torch.zeros(1, 5)}, InputError, r"expected target of shape \(2, 5\).*got \(1, 5\)"),
    ({"target": torch.full((2, 5), math.inf)}, InputError, "expected a finite target, got NaN or infinity"),
    ({"target": [0.0]}, TypeError, "expected target as a tensor, or None to lower a score, got list"),
    ({"eps": 1e-4, "pixels": 256}, InputError, r"no 8-bit image lies within eps = 0.0001 of start 0"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), BAD, ids=[f"{next(iter(c))}-{i}" for i, (c, _, _) in enumerate(BAD)]
)
def test_every_bad_argument_has_its_message(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "target": torch.zeros(2, LATENT, dtype=torch.float64),
        "eps": 1.0,
        "steps": 1,
        **change,
    }
    with pytest.raises(error, match=message):
        attack(make_encoder(), make_images(2, 1), **arguments)


def test_tries_are_judged_by_the_8_bit_image() -> None:
    """Whether one more try is due, and which is the best, is decided by the image that counts."""
    f, start, target = make_encoder(), make_images(4, 1), make_encoder()(make_images(4, 2))
    start = dequantize(quantize(start), torch.float64)
    once = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0)
    i = int((once.mape - once.float_mape).argmax())
    between = float(once.mape[i] + once.float_mape[i]) / 2
    assert once.float_mape[i] < between < once.mape[i]
    start, target = start[[i]], target[[i]]
    more = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0, restarts=3, tolerance=between)
    first = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0, tolerance=between)
    assert first.float_mape <= between < first.mape  # the float image has arrived, its PNG has not
    assert more.gradient_evaluations > first.gradient_evaluations
    assert more.mape <= first.mape


def test_an_estimated_gradient_does_not_cut_the_steps() -> None:
    """An SPSA gradient is several times too long: steps cut to the Polyak length that follows from it would be tiny."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    spsa = Spsa(directions=4)
    free = attack(f, start, target, eps=2.0, steps=20, gradient=spsa, method=Uncut)
    assert torch.equal(attack(f, start, target, eps=2.0, steps=20, gradient=spsa).float_image, free.float_image)
    exact = attack(f, start, target, eps=2.0, steps=20)
    uncut = attack(f, start, target, eps=2.0, steps=20, method=Uncut)
    assert not torch.equal(exact.float_image, uncut.float_image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_latents_of_16_bits_are_attacked_in_full(dtype: torch.dtype) -> None:
    """A latent of 256 numbers: long enough for the squares to leave the range of float16."""
    rng = torch.Generator().manual_seed(0)
    A = torch.randn(256, 3 * 16 * 16, generator=rng) / 16

    def f(x: Tensor) -> Tensor:
        return (x.flatten(1) @ A.T).to(dtype)

    start, x_in = torch.rand(2, 3, 16, 16, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)
    narrow = attack(f, start, f(x_in), eps=3.0, steps=40)
    wide = attack(lambda x: x.flatten(1) @ A.T, start, x_in.flatten(1) @ A.T, eps=3.0, steps=40)
    assert narrow.gradient_evaluations.tolist() == [40, 40]
    torch.testing.assert_close(narrow.mape.double(), wide.mape.double(), rtol=0.2, atol=0)


def test_a_sample_that_no_try_improves_still_ends_on_the_grid() -> None:
    """The second sample's latent is never a number, and its start is off the grid."""
    f = make_encoder()

    def broken(x: Tensor) -> Tensor:
        return f(x) * torch.tensor([[1.0], [math.nan]], dtype=x.dtype)[: len(x)]

    start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(broken, start, target, eps=2.0, steps=4, pixels=256, check=False)
    torch.testing.assert_close(result.image * 255, (result.image * 255).round(), rtol=0, atol=1e-4)
    assert (result.distance <= 2.0).all()


def test_a_try_that_arrives_is_taken_though_an_earlier_one_has_the_lower_loss() -> None:
    # f(start); the first try's step and last image; the second's; the result
    f, target = scripted([1, 0, 0, 1, 1, 1])
    settings: dict[str, Any] = {"eps": 1.0, "steps": 1, "tolerance": 0.15, "gradient": Scripted(), "check": False}
    result = attack(f, torch.rand(1, 3, 2, 2), target, restarts=3, **settings)
    assert result.restart.item() == 1
    assert result.gradient_evaluations.item() == 2


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper"])
def test_an_attack_starts_from_what_was_found_before(method: str, norm: float) -> None:
    f, start, target = make_encoder(), make_images(4, 1), make_encoder()(make_images(4, 2))
    eps = {1: 6.0, 2: 1.5, math.inf: 0.3}[norm]
    first = attack(f, start, target, eps=eps, norm=norm, steps=60)
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return f(x)

    again = attack(watched, start, target, eps=eps, norm=norm, steps=1, method=method, initial=first.image, check=False)
    assert torch.allclose(seen[1], first.image)  # after the start, whose latent is asked for
    losses = [(result.latent - target).square().sum(1) for result in (first, again)]
    assert (losses[1] <= losses[0] * (1 + 1e-6)).all() or method == "paper"
    assert (distance(again.image, start, norm) <= eps * (1 + 1e-9)).all()
    # What lies outside of the ball is brought into it first.
    seen.clear()
    far = attack(watched, start, target, eps=eps / 2, norm=norm, steps=1, initial=1 - start, check=False)
    assert (distance(seen[1], start, norm) <= eps / 2 * (1 + 1e-9)).all()
    assert (distance(seen[1], start, norm) > eps / 4).all()
    assert (distance(far.image, start, norm) <= eps / 2 * (1 + 1e-9)).all()


def test_a_bound_is_met_by_everything_below_it() -> None:
    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + 1

    start = torch.full((3, 3, 4, 4), 0.5, dtype=torch.float64)
    bound = torch.tensor([1.6, 1.5, 1.3], dtype=torch.float64)
    result = attack(f, start, bound, eps=math.inf, steps=80, below=True, tolerance=1e-3)
    assert torch.equal(result.image[:2], start[:2])  # they pass already
    assert result.gradient_evaluations[:2].tolist() == [1, 1]
    assert result.mape[:2].tolist() == [0, 0]
    assert result.latent[2] <= 1.3 * (1 + 1e-3)
    exact = attack(f, start, bound, eps=math.inf, steps=80, tolerance=1e-3)
    # Without it the target is met from both sides.
    assert ((exact.latent - bound).abs() <= 1e-3 * bound * (1 + 1e-6)).all()
    assert exact.latent[0] > 1.59


def test_grid_steps_without_a_grid_are_refused() -> None:
    f, start, target = make_encoder(), make_images(1, 1), make_encoder()(make_images(1, 2))
    with pytest.raises(InputError, match="expected grid_steps with pixels=256, got pixels=None"):
        attack(f, start, target, eps=1.0, grid_steps=5)


def test_the_last_steps_push_on_the_error_itself() -> None:
    """And the first, as long as it falls fast. What goes into the backward pass is seen by a hook on the latent."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    weights, fall = Whitening(), RawShare()
    alike: list[float] = []  # the push and the error
    expected: list[float] = []  # the push and what it should be: the error by a share, and else the weighted one

    def watched(x: Tensor) -> Tensor:
        z = f(x)
        if z.requires_grad:
            error = z.detach() - target
            share = fall(error).clamp_min(min(1, max(0, (len(alike) - 32) / 6) ** 2))
            wanted = torch.lerp(weights(error), error, share[:, None])

            def hear(push: Tensor) -> None:
                alike.append(float(torch.cosine_similarity(push, error, dim=1).min()))
                expected.append(float(torch.cosine_similarity(push, wanted, dim=1).min()))

            z.register_hook(hear)  # type: ignore[no-untyped-call]
        return z

    attack(watched, start, target, eps=math.inf, steps=40, check=False)
    assert len(expected) == 40
    assert min(expected) > 1 - 1e-6
    assert min(alike[:5]) > 1 - 1e-6
    assert max(alike[8:30]) < 0.99
    assert min(alike[38:]) > 1 - 1e-6


def test_seeds_and_radii_may_come_from_numpy_and_torch() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    plain: dict[str, Any] = {"method": "paper", "steps": 3}
    expected = attack(f, start, target, eps=[0.5, 1.0], seed=[3, 3], **plain)
    for seed in (np.int64(3), np.array([3, 3]), torch.tensor(3), torch.tensor([3, 3])):
        eps = torch.tensor([0.5, 1.0], requires_grad=True)
        found = attack(f, start, target, eps=eps, seed=seed, **plain)  # type: ignore[arg-type]
        assert_same(found, expected, [0, 1])


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_an_image_on_the_grid_is_no_worse_than_a_start_on_it(norm: float) -> None:
    """A third of a level away: most pixels round back to it, and a few away from it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        f = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 64)).eval()
        start = grid_images(16, 1)
        with torch.no_grad():
            target = f((start + 0.35 / 255 * torch.randn_like(start)).clamp(0, 1))
    result = attack(f, start, target, eps=0.5, norm=norm, pixels=256, steps=50, grid_steps=0)
    before, after = ((z - target).square().sum(1) for z in (result.start_latent, result.latent))
    assert (after <= before * (1 + 1e-5)).all()
    assert (after < before).any()


@pytest.mark.parametrize(
    ("f", "got"),
    [
        (lambda x: x.flatten(2), r"\(2, 3, 16\)"),
        (lambda x: x.mean(), r"\(\)"),
        (lambda x: (x.mean((2, 3)), x), "tuple"),
        (lambda x: x.mean((2, 3))[:, :0], r"\(2, 0\)"),
        (lambda x: x.mean((2, 3))[:1], r"\(1, 3\)"),
    ],
)
def test_latents_of_another_shape_are_refused_though_f_is_not_asked(f: Any, got: str) -> None:
    with pytest.raises(
        InputError, match=rf"expected f to map \(2, 3, H, W\) to \(2, K\) or \(2,\), got {got}; flatten"
    ):
        attack(f, make_images(2, 1), torch.zeros(2, 3), eps=1.0, check=False)


def test_a_number_of_torch_is_a_number() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    settings: dict[str, Any] = {"eps": 1.0, "steps": 3}
    once = attack(f, start, target, step_size=0.125, tolerance=0.0625, **settings)
    number = {"step_size": torch.tensor(0.125), "tolerance": torch.tensor(0.0625)}
    assert_same(attack(f, start, target, **number, **settings), once, [0, 1])  # type: ignore[arg-type]


def test_an_image_that_has_arrived_is_not_given_up_for_a_start_of_less_loss() -> None:
    """J is quadratic and MAPE is not: ten errors of 0.1 at the start, and a single one of 0.5 a level on."""
    start = torch.full((1, 3, 4, 4), 100 / 255)
    target = torch.ones(1, 10)

    def f(x: Tensor) -> Tensor:
        gone = ((x - start).mean((1, 2, 3)) * 4 * 255).clamp(0, 1)[:, None]
        rest = 0.1 * (1 - gone)
        return target - torch.cat([rest + 0.5 * gone, rest.expand(-1, 9)], dim=1)

    result = attack(
        f, start, target, eps=1.0, norm=math.inf, steps=1, initial=torch.full((1, 3, 4, 4), 101 / 255),
        tolerance=0.07, pixels=256, grid_steps=0, check=False,
    )  # fmt: skip
    assert (f(start) - target).square().sum() < (result.latent - target).square().sum()
    assert result.mape.item() == pytest.approx(0.05)
    assert result.start_mape.item() == pytest.approx(0.1)
