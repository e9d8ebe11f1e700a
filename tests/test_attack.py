"""The contract of `attack`: samples are independent, the best image is kept, work is counted, errors are clear."""

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
from tests.methods import WithoutStepLimit

LATENT = 5


def make_encoder(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A smooth nonlinear f of (B, 3, 4, 4) images whose rounding does not depend on the batch size."""
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
    """Counts the images that f evaluates with and without a gradient."""

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
    """Check that ``one`` equals the ``rows`` of ``other``."""
    for field in FIELDS:
        a, b = getattr(one, field), getattr(other, field)[rows]
        assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-10, equal_nan=True), field


@pytest.mark.parametrize("gradient", ["autograd", Spsa(directions=3)])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper"])
def test_a_sample_does_not_depend_on_its_batch(method: str, norm: float, gradient: Any) -> None:
    """In batches of 1, 3 and 8 and in any order, with restarts, random starts, and samples that finish early."""
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
    assert len(set(work.tolist())) > 2, "the test needs samples that finish at different times"
    for rows in ([0], [3], [7], [6, 1, 4], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert_same(run(rows), together, rows)


def test_a_single_seed_applies_to_every_sample() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    settings: dict[str, Any] = {"eps": 0.5, "steps": 5, "method": "paper"}
    one = attack(f, start, target, seed=7, **settings)
    assert_same(one, attack(f, start, target, seed=[7, 7], **settings), [0, 1])
    assert not torch.allclose(one.image, attack(f, start, target, seed=8, **settings).image)
    assert torch.equal(one.image, attack(f, start, target, seed=7, **settings).image)


def published_algorithm(
    f: Callable[[Tensor], Tensor], x0: Tensor, t: Tensor, eps: float, steps: int, seed: int
) -> Tensor:
    """Algorithm 1 as published, an independent implementation with torch's optimizer on the perturbation.

    Takes one image. The random xi is uniform in [-eps, eps] for each pixel, from the same random stream as ours.
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
        expected = published_algorithm(f, start[i : i + 1], target[i : i + 1], eps, 60, seed=5 + i)
        torch.testing.assert_close(result.image[i : i + 1], expected, rtol=0, atol=1e-8)


def test_a_method_returns_its_best_or_its_last_image() -> None:
    """Steps jump from one face of the box to the opposite one, so the best image is not the last."""

    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None]

    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    target = torch.tensor([[0.4], [0.7]], dtype=torch.float64)
    settings: dict[str, Any] = {"eps": math.inf, "steps": 4, "step_size": 100.0}

    class Last(Plain):
        def counts(self, n: int) -> bool:
            return n == self.steps

    best = attack(f, start, target, method=Plain, **settings)
    torch.testing.assert_close(best.mape, mape(f(best.image), target))
    assert (best.mape <= best.start_mape).all()
    losses = (best.history[:, -1] > best.history.nanquantile(0, dim=1)).tolist()
    assert all(losses), "the test needs runs that end above their best"
    last = attack(f, start, target, method=Last, **settings)
    torch.testing.assert_close(last.history, best.history)
    torch.testing.assert_close(last.mape, last.history[:, -1])
    assert (best.mape < last.mape).all()


def test_the_last_image_is_evaluated_too() -> None:
    """With one step, only the image after that step can be better than the start."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=1.0, steps=1, step_size=0.01)
    assert (result.mape < result.start_mape).all()
    assert (result.distance > 0).all()


class Scripted:
    """A source of gradients that costs one evaluation and always returns ones."""

    passes, forwards = 1, 0

    def __call__(self, f: Any, x: Tensor, generators: Any) -> Any:
        return f(x), lambda _weights: torch.ones_like(x)


def scripted(script: list[int]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """An f and a target; in call n, f differs from the target by error 0 or error 1, as ``script[n]`` says.

    J is quadratic and MAPE is not: error 0, (2, 2, 2, 2), has the lower J, error 1, (4.5, 0, 0, 0), the lower MAPE.
    """
    errors = torch.tensor([[2.0, 2.0, 2.0, 2.0], [4.5, 0.0, 0.0, 0.0]])
    calls = iter(script)
    return lambda x: 10 + errors[next(calls)].expand(len(x), 4), torch.full((1, 4), 10.0)


def test_an_image_within_tolerance_beats_an_earlier_one_of_lower_loss() -> None:
    f, target = scripted([1, 0, 1, 1, 1])  # f(start), then the steps
    result = attack(
        f, torch.rand(1, 3, 2, 2), target, eps=1.0, steps=5, tolerance=0.15, gradient=Scripted(), check=False
    )
    assert result.float_mape.item() == pytest.approx(4.5 / 4 / 10)
    assert result.gradient_evaluations.item() == 2


def test_a_sample_stops_as_soon_as_it_is_within_tolerance() -> None:
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


def test_a_start_that_matches_the_target_costs_one_gradient_evaluation() -> None:
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
    # `fast` and `plain` keep the image of lowest J, which need not have the lowest MAPE.
    assert (result.float_mape >= reached - 1e-12).all()
    assert all(value in row for value, row in zip(result.float_mape.tolist(), result.history.tolist(), strict=True))
    if method == "paper":
        torch.testing.assert_close(result.float_mape, reached)


@pytest.mark.parametrize("method", ["fast", "paper"])
def test_every_evaluation_of_f_is_counted(method: str) -> None:
    """Including restarts and samples that finish early."""
    counting = Counting(make_encoder())
    start, target = make_images(6, 1), make_encoder()(make_images(6, 2))
    eps = [0.0, 0.05, 0.5, 1.0, 2.0, 3.0]
    result = attack(counting, start, target, eps=eps, steps=10, method=method, restarts=3, tolerance=0.05, check=False)
    assert counting.with_gradient == int(result.gradient_evaluations.sum())
    assert counting.without == int(result.forward_evaluations.sum())
    # Samples 0 and 1 cannot reach the target: three full tries, the last image of each, the start and the result.
    assert result.gradient_evaluations[:2].tolist() == [30, 30]
    assert result.forward_evaluations[:2].tolist() == [5, 5]
    # A sample that reached the target in its first try did not run a second.
    first = (result.restart == 0) & (result.mape <= 0.05)
    assert first.any()
    assert (result.gradient_evaluations[first] <= 10).all()


def test_spsa_is_counted_in_forward_evaluations() -> None:
    counting = Counting(make_encoder())
    start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(counting, start, target, eps=0.5, steps=4, gradient=Spsa(3), check=False)
    assert counting.with_gradient == 0
    assert counting.without == int(result.forward_evaluations.sum()) == 2 * (4 * 7 + 3)
    assert result.gradient_evaluations.tolist() == [0, 0]


def test_only_unsolved_samples_restart_and_the_best_try_wins() -> None:
    f, start, target = make_encoder(), make_images(6, 1), make_encoder()(make_images(6, 2))
    settings: dict[str, Any] = {"eps": 1.0, "steps": 6, "tolerance": 0.05, "seed": 3}
    results = [attack(f, start, target, restarts=n, **settings) for n in (1, 2, 5)]
    losses = [(result.latent - target).square().sum(1) for result in results]
    assert all((more <= fewer + 1e-12).all() for fewer, more in pairwise(losses))
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
def test_a_ball_of_radius_zero_returns_the_start(method: str, norm: float, step_size: float | None) -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=0, norm=norm, steps=5, method=method, step_size=step_size, restarts=2)
    assert torch.equal(result.image, start)
    assert result.distance.tolist() == [0, 0]
    torch.testing.assert_close(result.mape, result.start_mape)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_an_infinite_ball_is_bounded_by_the_pixel_box(method: str, norm: float) -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=math.inf, norm=norm, steps=100, method=method)
    assert ((result.image >= 0) & (result.image <= 1)).all()
    assert (result.mape < result.start_mape).all()


@pytest.mark.parametrize("pixels", [None, 256])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper", "plain"])
def test_each_sample_stays_in_its_own_ball(method: str, norm: float, pixels: int | None) -> None:
    """In float32, with starts on the faces of the box, large steps, and restarts."""
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


def test_f_may_return_one_number_per_image() -> None:
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


def test_an_all_zero_target_has_no_mape_but_is_attacked() -> None:
    f, start = make_encoder(), make_images(2, 1)
    target = torch.stack([torch.zeros(LATENT, dtype=torch.float64), f(make_images(1, 2))[0]])
    result = attack(f, start, target, eps=3.0, steps=50, tolerance=0.01)
    assert result.mape.isnan().tolist() == [True, False]
    assert result.notes[0].startswith("z_in is all zeros")
    assert result.notes[1] == ""
    assert float(result.latent[0].norm()) < 0.1 * float(result.start_latent[0].norm())


def two_scales(x: Tensor) -> Tensor:
    """Two layers, concatenated; the second is 10,000 times as large as the first."""
    z = make_encoder()(x)
    return torch.cat([z[:, :2], 1e4 * z[:, 2:]], dim=1)


def test_parts_keep_a_large_layer_from_dominating_a_small_one() -> None:
    start, target = make_images(3, 1), two_scales(make_images(3, 2))
    weighted = attack(two_scales, start, target, eps=3.0, steps=40, parts=[2, 3])
    unweighted = attack(two_scales, start, target, eps=3.0, steps=40)
    assert weighted.part_mape.shape == (3, 2)
    assert unweighted.part_mape.shape == (3, 1)
    assert (weighted.part_mape < 0.02).all()
    first_part = mape(unweighted.latent[:, :2], target[:, :2])
    assert (first_part > 5 * weighted.part_mape[:, 0]).all()


def test_the_worst_part_decides_when_a_sample_is_finished() -> None:
    """The MAPE of the whole latent hides the error of a small part; the sample continues nevertheless."""
    start = make_images(3, 1)
    target = two_scales(start)
    target[:, :2] = two_scales(make_images(3, 2))[:, :2]
    assert (mape(two_scales(start), target) < 0.01).all()
    result = attack(two_scales, start, target, eps=3.0, steps=80, parts=[2, 3], tolerance=0.01)
    assert (result.gradient_evaluations > 1).all()
    assert (result.part_mape < 0.01).all()


def test_a_part_with_an_all_zero_target_is_still_reached() -> None:
    """Such a part, for instance the forbidden part of a latent, is scaled by its error at the start."""
    start, target = make_images(2, 1), two_scales(make_images(2, 2))
    target[:, :2] = 0
    result = attack(two_scales, start, target, eps=2.0, steps=100, parts=[2, 3])
    assert result.part_mape[:, 0].isnan().all()
    assert (result.part_mape[:, 1] < 0.05).all()
    assert (result.latent[:, :2].abs() < 0.05 * result.start_latent[:, :2].abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1e12, 1e20])
def test_the_scale_of_the_latent_does_not_matter_in_float32(scale: float) -> None:
    """The squares of small probabilities underflow in float32, those of large energies overflow."""
    f, one = make_encoder(torch.float32, scale), make_encoder(torch.float32)
    start, x_in = make_images(2, 1, torch.float32), make_images(2, 2, torch.float32)
    result = attack(f, start, f(x_in), eps=3.0, steps=60)
    expected = attack(one, start, one(x_in), eps=3.0, steps=60)
    assert (expected.mape < 0.01).all()
    torch.testing.assert_close(result.mape, expected.mape, rtol=0, atol=1e-3)


def test_only_the_sample_with_a_non_finite_gradient_stops() -> None:
    """f becomes NaN where the first pixel exceeds 0.6: that sample keeps a good image, the other continues."""
    encoder = make_encoder()

    def f(x: Tensor) -> Tensor:
        return encoder(x) + (0.6 - x[:, :1, 0, 0]).sqrt() * torch.tensor([1.0, 0, 0, 0, 0], dtype=x.dtype)

    start = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    start[1, 0, 0, 0] = 0.0
    target = f(start).clone()
    target[0, 0] -= 5.0  # pulls the first pixel of sample 0 beyond 0.6
    target[1] = encoder(make_images(1, 2))[0]
    result = attack(f, start, target, eps=1.0, steps=30, step_size=0.05)
    assert result.image.isfinite().all()
    assert result.mape.isfinite().all()
    assert result.mape[0] < result.start_mape[0]
    assert result.gradient_evaluations[0] < 30
    assert result.gradient_evaluations[1] == 30
    assert result.notes == ("stopped where f has a gradient of NaN or infinity", "")


def test_a_stopped_try_is_noted_only_if_it_wins() -> None:
    """f has no gradient at the start itself, where only the first try begins."""
    start = make_images(2, 1)

    def f(x: Tensor) -> Tensor:
        gap = (x - start[:1]).square().sum((1, 2, 3)).sqrt()  # its gradient is 0 / 0 at the first start
        return torch.stack([x.mean((1, 2, 3)), 0 * gap], dim=1)

    target = torch.tensor([[0.6, 0.0], [0.6, 0.0]], dtype=torch.float64)
    once = attack(f, start, target, eps=2.0, steps=20, check=False)
    assert once.notes == ("stopped where f has a gradient of NaN or infinity", "")
    assert once.gradient_evaluations.tolist() == [1, 20]
    assert once.mape.isfinite().all()
    again = attack(f, start, target, eps=2.0, steps=20, restarts=2, check=False)
    assert again.notes == ("", "")
    assert again.restart.tolist()[0] == 1
    assert again.mape[0] < once.mape[0]


def test_a_try_that_is_nan_from_its_first_step_is_noted() -> None:
    start = make_images(2, 1)

    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + 0 * (-(x - start).square().sum((1, 2, 3))).sqrt()  # NaN except at the starts

    result = attack(f, start, torch.full((2,), 0.6, dtype=torch.float64), eps=2.0, method="paper", check=False)
    assert torch.equal(result.image, start)
    assert result.notes == ("stopped where f has a gradient of NaN or infinity",) * 2


@pytest.mark.parametrize("parts", [None, [1, 1]])
@pytest.mark.parametrize("target", [1e-12, 1e-22, 1e-32])
def test_a_target_close_to_zero_is_attacked(target: float, parts: list[int] | None) -> None:
    """The squares of errors divided by such a target overflow in float32."""

    def f(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean**3, mean], dim=1) if parts else mean**3

    start = torch.full((1, 3, 4, 4), 0.5)
    goal = torch.tensor([[target, 0.01]]) if parts else torch.tensor([target])
    result = attack(f, start, goal, eps=math.inf, steps=60, parts=parts)
    assert result.gradient_evaluations.item() > 1
    assert result.latent.flatten()[0] < 1e-5  # 0.125 at the start
    if parts:
        assert result.latent[0, 1] < 0.02


def test_the_callback_gets_a_copy_of_the_mape_after_every_step() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    calls_seen: list[tuple[int, Tensor]] = []
    result = attack(f, start, target, eps=1.0, steps=6, restarts=2, callback=lambda n, m: calls_seen.append((n, m)))
    assert [n for n, _ in calls_seen] == [1, 2, 3, 4, 5, 6] * 2
    so_far = torch.stack([m for _, m in calls_seen])
    assert so_far.shape == (12, 2)
    assert (so_far[0] > so_far[5]).all()
    last_try = so_far[-1][result.restart == 1]
    assert (last_try >= result.mape[result.restart == 1] - 1e-12).all()


def test_a_users_method_overrides_verbs() -> None:
    """The algorithm calls each verb, in this order."""
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


def test_get_method_accepts_names_and_classes() -> None:
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
    torch.testing.assert_close(longer[3], shorter[3] / 4)  # the same total length
    # In a small ball the number of steps does not matter: 2.4 times the radius per pixel when all pixels move equally.
    assert longer[1] == shorter[1] == pytest.approx(2.4e-3 / math.sqrt(48))
    # With few steps, each is long enough to leave the neighbourhood of the start.
    widest = [Fast.default_step_size(eps, 48, 2.0, steps)[3].item() for steps in (1, 5, 10, 20, 50, 100, 400, 1600)]
    assert widest == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.12, 0.06, 0.015, 0.0075])


def test_a_fast_falling_error_is_not_whitened() -> None:
    """A linear f with equal singular values: at first, a step of Polyak's length about halves the error."""
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


def test_adjacent_seeds_and_tries_give_uncorrelated_streams() -> None:
    first = torch.stack(
        [torch.rand(2000, generator=generator(s, a)) for s, a in ((0, 0), (0, 1), (1, 0), (10, 0), (1, 1))]
    )
    assert float((torch.corrcoef(first) - torch.eye(5)).abs().max()) < 0.1


def test_inference_mode_tensors_are_accepted() -> None:
    with torch.inference_mode():
        start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(make_encoder(), start, target, eps=1.0, steps=3, parts=[2, 3])
    assert (result.mape < result.start_mape).all()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_images_of_any_memory_format_are_made_contiguous(norm: float) -> None:
    """In any other format, flattening would copy the images in each step."""
    seen: list[bool] = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous())
        return x.mean((2, 3))

    start = torch.rand(2, 3, 8, 8)
    options: dict[str, Any] = {"eps": 0.5, "norm": norm, "steps": 5, "check": False}
    expected = attack(f, start, f(torch.ones_like(start)), initial=start, **options)
    channels_last = start.to(memory_format=torch.channels_last)
    found = attack(f, channels_last, f(torch.ones_like(start)), initial=channels_last, **options)
    assert all(seen)
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=0)


def test_arguments_are_not_modified() -> None:
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


def test_a_method_may_release_samples_early() -> None:
    """Only a sample whose gradient is not finite is noted as broken."""

    class Early(Method):
        def release(self, x: Tensor, error: Tensor, exact: Tensor, finished: Tensor) -> Tensor:
            return torch.ones_like(finished)

    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(f, start, target, eps=1.0, steps=5, method=Early)
    assert result.gradient_evaluations.tolist() == [1, 1]
    assert result.notes == ("", "")


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
    ({"eps": None}, TypeError, "expected eps as a number, or one per sample, got None"),
    ({"eps": "5"}, TypeError, "expected eps as a number, or one per sample, got '5'"),
    ({"parts": "12"}, TypeError, "expected parts as the lengths of the latent's parts"),
    ({"parts": 3}, TypeError, "expected parts as the lengths of the latent's parts"),
    ({"below": "no"}, TypeError, "expected below as True or False, got 'no'"),
    ({"callback": 3}, TypeError, "expected callback as a function of the step and the MAPE"),
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
    ({"eps": 1e-4, "pixels": 256}, InputError, r"no 8-bit image is within eps = 0.0001 of start 0"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), BAD, ids=[f"{next(iter(c))}-{i}" for i, (c, _, _) in enumerate(BAD)]
)
def test_bad_arguments_are_refused_with_a_clear_message(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "target": torch.zeros(2, LATENT, dtype=torch.float64),
        "eps": 1.0,
        "steps": 1,
        **change,
    }
    with pytest.raises(error, match=message):
        attack(make_encoder(), make_images(2, 1), **arguments)


def test_tries_are_compared_by_the_8_bit_image() -> None:
    """The 8-bit image decides whether there is another try, and which try is the best."""
    f, start, target = make_encoder(), make_images(4, 1), make_encoder()(make_images(4, 2))
    start = dequantize(quantize(start), torch.float64)
    once = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0)
    i = int((once.mape - once.float_mape).argmax())
    between = float(once.mape[i] + once.float_mape[i]) / 2
    assert once.float_mape[i] < between < once.mape[i]
    start, target = start[[i]], target[[i]]
    more = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0, restarts=3, tolerance=between)
    first = attack(f, start, target, eps=2.0, steps=60, pixels=256, grid_steps=0, tolerance=between)
    assert first.float_mape <= between < first.mape  # the float image is within tolerance, its PNG is not
    assert more.gradient_evaluations > first.gradient_evaluations
    assert more.mape <= first.mape


def test_steps_along_an_estimated_gradient_are_not_limited() -> None:
    """An SPSA gradient is several times too long, so steps limited by it to Polyak's length would be far too short."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    spsa = Spsa(directions=4)
    spsa_unlimited = attack(f, start, target, eps=2.0, steps=20, gradient=spsa, method=WithoutStepLimit)
    assert torch.equal(
        attack(f, start, target, eps=2.0, steps=20, gradient=spsa).float_image, spsa_unlimited.float_image
    )
    exact = attack(f, start, target, eps=2.0, steps=20)
    unlimited = attack(f, start, target, eps=2.0, steps=20, method=WithoutStepLimit)
    assert not torch.equal(exact.float_image, unlimited.float_image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_latents_are_attacked_in_float32(dtype: torch.dtype) -> None:
    """A latent of 256 numbers is long enough for the sum of squares to overflow in float16."""
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
    """The second sample's latent is always NaN, and its start is off the grid."""
    f = make_encoder()

    def broken(x: Tensor) -> Tensor:
        return f(x) * torch.tensor([[1.0], [math.nan]], dtype=x.dtype)[: len(x)]

    start, target = make_images(2, 1), make_encoder()(make_images(2, 2))
    result = attack(broken, start, target, eps=2.0, steps=4, pixels=256, check=False)
    torch.testing.assert_close(result.image * 255, (result.image * 255).round(), rtol=0, atol=1e-4)
    assert (result.distance <= 2.0).all()


def test_a_try_within_tolerance_beats_an_earlier_one_of_lower_loss() -> None:
    # f(start); the first try's step and last image; the second's; the result
    f, target = scripted([1, 0, 0, 1, 1, 1])
    settings: dict[str, Any] = {"eps": 1.0, "steps": 1, "tolerance": 0.15, "gradient": Scripted(), "check": False}
    result = attack(f, torch.rand(1, 3, 2, 2), target, restarts=3, **settings)
    assert result.restart.item() == 1
    assert result.gradient_evaluations.item() == 2


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", ["fast", "paper"])
def test_an_attack_starts_from_the_initial_images(method: str, norm: float) -> None:
    f, start, target = make_encoder(), make_images(4, 1), make_encoder()(make_images(4, 2))
    eps = {1: 6.0, 2: 1.5, math.inf: 0.3}[norm]
    first = attack(f, start, target, eps=eps, norm=norm, steps=60)
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return f(x)

    again = attack(watched, start, target, eps=eps, norm=norm, steps=1, method=method, initial=first.image, check=False)
    assert torch.allclose(seen[1], first.image)  # the first call evaluates the start
    losses = [(result.latent - target).square().sum(1) for result in (first, again)]
    assert (losses[1] <= losses[0] * (1 + 1e-6)).all() or method == "paper"
    assert (distance(again.image, start, norm) <= eps * (1 + 1e-9)).all()
    # Initial images outside the ball are projected onto it first.
    seen.clear()
    far = attack(watched, start, target, eps=eps / 2, norm=norm, steps=1, initial=1 - start, check=False)
    assert (distance(seen[1], start, norm) <= eps / 2 * (1 + 1e-9)).all()
    assert (distance(seen[1], start, norm) > eps / 4).all()
    assert (distance(far.image, start, norm) <= eps / 2 * (1 + 1e-9)).all()


def test_with_below_the_target_is_an_upper_bound() -> None:
    def f(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + 1

    start = torch.full((3, 3, 4, 4), 0.5, dtype=torch.float64)
    bound = torch.tensor([1.6, 1.5, 1.3], dtype=torch.float64)
    result = attack(f, start, bound, eps=math.inf, steps=80, below=True, tolerance=1e-3)
    assert torch.equal(result.image[:2], start[:2])  # they are not above it
    assert result.gradient_evaluations[:2].tolist() == [1, 1]
    assert result.mape[:2].tolist() == [0, 0]
    assert result.latent[2] <= 1.3 * (1 + 1e-3)
    exact = attack(f, start, bound, eps=math.inf, steps=80, tolerance=1e-3)
    # Without `below`, values below the target are raised to it.
    assert ((exact.latent - bound).abs() <= 1e-3 * bound * (1 + 1e-6)).all()
    assert exact.latent[0] > 1.59


def test_grid_steps_without_a_grid_are_refused() -> None:
    f, start, target = make_encoder(), make_images(1, 1), make_encoder()(make_images(1, 2))
    with pytest.raises(InputError, match="expected grid_steps with pixels=256, got pixels=None"):
        attack(f, start, target, eps=1.0, grid_steps=5)


def test_the_last_steps_are_not_whitened() -> None:
    """Nor are the first, while the error falls fast. A hook on the latent records what enters the backward pass."""
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    whitening, raw_share = Whitening(), RawShare()
    to_error: list[float] = []  # cosine between the push and the error
    to_expected: list[float] = []  # and between the push and the expected mixture of raw and whitened error

    def watched(x: Tensor) -> Tensor:
        z = f(x)
        if z.requires_grad:
            error = z.detach() - target
            share = raw_share(error).clamp_min(min(1, max(0, (len(to_error) - 32) / 6) ** 2))
            expected = torch.lerp(whitening(error), error, share[:, None])

            def record(push: Tensor) -> None:
                to_error.append(float(torch.cosine_similarity(push, error, dim=1).min()))
                to_expected.append(float(torch.cosine_similarity(push, expected, dim=1).min()))

            z.register_hook(record)  # type: ignore[no-untyped-call]
        return z

    attack(watched, start, target, eps=math.inf, steps=40, check=False)
    assert len(to_expected) == 40
    assert min(to_expected) > 1 - 1e-6
    assert min(to_error[:5]) > 1 - 1e-6
    assert max(to_error[8:30]) < 0.99
    assert min(to_error[38:]) > 1 - 1e-6


def test_seeds_and_eps_may_be_arrays_or_tensors() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    plain: dict[str, Any] = {"method": "paper", "steps": 3}
    expected = attack(f, start, target, eps=[0.5, 1.0], seed=[3, 3], **plain)
    for seed in (np.int64(3), np.array([3, 3]), torch.tensor(3), torch.tensor([3, 3])):
        eps = torch.tensor([0.5, 1.0], requires_grad=True)
        found = attack(f, start, target, eps=eps, seed=seed, **plain)  # type: ignore[arg-type]
        assert_same(found, expected, [0, 1])


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_rounding_is_never_worse_than_a_start_on_the_grid(norm: float) -> None:
    """The target is about a third of a level away: most pixels round back to the start, and a few away from it."""
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
def test_wrong_latent_shapes_are_refused_without_health_checks(f: Any, got: str) -> None:
    with pytest.raises(
        InputError, match=rf"expected f to map \(2, 3, H, W\) to \(2, K\) or \(2,\), got {got}; flatten"
    ):
        attack(f, make_images(2, 1), torch.zeros(2, 3), eps=1.0, check=False)


def test_scalar_tensors_are_accepted_as_numbers() -> None:
    f, start, target = make_encoder(), make_images(2, 1), make_encoder()(make_images(2, 2))
    settings: dict[str, Any] = {"eps": 1.0, "steps": 3}
    once = attack(f, start, target, step_size=0.125, tolerance=0.0625, **settings)
    number = {"step_size": torch.tensor(0.125), "tolerance": torch.tensor(0.0625)}
    assert_same(attack(f, start, target, **number, **settings), once, [0, 1])  # type: ignore[arg-type]


def test_an_image_within_tolerance_beats_a_start_of_lower_loss() -> None:
    """J is quadratic and MAPE is not: ten errors of 0.1 at the start, a single one of 0.5 one level further."""
    start = torch.full((1, 3, 4, 4), 100 / 255)
    target = torch.ones(1, 10)

    def f(x: Tensor) -> Tensor:
        moved = ((x - start).mean((1, 2, 3)) * 4 * 255).clamp(0, 1)[:, None]
        rest = 0.1 * (1 - moved)
        return target - torch.cat([rest + 0.5 * moved, rest.expand(-1, 9)], dim=1)

    result = attack(
        f, start, target, eps=1.0, norm=math.inf, steps=1, initial=torch.full((1, 3, 4, 4), 101 / 255),
        tolerance=0.07, pixels=256, grid_steps=0, check=False,
    )  # fmt: skip
    assert (f(start) - target).square().sum() < (result.latent - target).square().sum()
    assert result.mape.item() == pytest.approx(0.05)
    assert result.start_mape.item() == pytest.approx(0.1)
