"""The attacks of an audit, on detectors whose solution is known."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodattack.attacks import Ball, Followed, Found, Samples, aimed, direct, follow, latent
from oodattack.attacks.batch import run
from oodattack.attacks.differences import DIRECTIONS, Differences
from oodattack.attacks.direct import FAR_BELOW, GRID_SHARE, INNER
from oodattack.core.gradient import Autograd, Spsa
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import Detector
from oodattack.detectors.ranks import Ranks

BALL = Ball(1.0, 2, 30)


def samples(count: int = 4) -> Samples:
    x = torch.randint(0, 256, (2, count, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Samples(dequantize(x[0]), dequantize(x[1]), list(range(count)))


class Linear(Detector):
    """A detector whose score is linear in the image; its judge may have no gradient, or be missing."""

    def __init__(self, gradient: bool = True, judge: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(3 * 8 * 8, 5, generator=generator) / 10
        self.direction = torch.randn(5, generator=generator)
        self.gradient = gradient
        if not judge:
            self.judge = None  # type: ignore[assignment, method-assign]

    def fit(self, loader: Any) -> None:
        pass

    def reads(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight

    def judge(self, reads: Tensor) -> Tensor:
        reads = reads if self.gradient else reads.detach()
        scores: Tensor = reads @ self.direction
        return scores

    def score(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.reads(images) @ self.direction
            return scores


def norms(found: Tensor, start: Tensor) -> Tensor:
    return (dequantize(found) - start).flatten(1).square().sum(1).sqrt()


@pytest.mark.parametrize(
    ("detector", "source", "how"),
    [
        (Linear(), Autograd, "gradient of the score"),
        (Linear(gradient=False), Differences, "differences of the score along what it reads"),
        (Linear(gradient=False, judge=False), Spsa, "SPSA on the image"),
    ],
)
def test_a_score_is_followed_by_the_best_available_gradient(detector: Linear, source: type, how: str) -> None:
    some = samples(16)
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    assert isinstance(followed.gradient, source)
    assert followed.how.startswith(how)
    ball = Ball(3.0, 2, 60)
    found = direct(followed, detector, some, ball, None)
    assert (norms(found.images, some.start) <= 3 * (1 + 1e-6)).all()
    before, after = detector.score(some.start), detector.score(dequantize(found.images))
    assert (after <= before + 1e-6).all()
    if source is not Spsa:
        # Apart from the pixel box, the ball allows the score to fall by eps times the norm of the gradient.
        assert (before - after > 0.8 * 3 * (detector.weight @ detector.direction).norm()).all()


@pytest.mark.parametrize("norm", [2, math.inf])
def test_a_direct_attack_reaches_the_lowest_linear_score_of_the_ball(norm: float) -> None:
    """Starts are half grey and the ball is small, so that the pixel box leaves the whole ball."""
    detector, some = Linear(), samples(8)
    start = dequantize(quantize(0.3 + 0.4 * some.start))
    gray = Samples(some.x_in, start, some.seeds)
    eps = 3.0 if norm == 2 else 0.2
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    found = direct(followed, detector, gray, Ball(eps, norm, 60), None)
    slope = detector.weight @ detector.direction
    furthest = eps * (slope.norm() if norm == 2 else slope.abs().sum())  # Hoelder's inequality
    fell = detector.score(start) - detector.score(dequantize(found.images))
    assert (fell <= furthest * (1 + 1e-5)).all()
    assert (fell >= 0.95 * furthest).all()
    assert found.mape.isnan().all()


class Nonlinear(Linear):
    """A score whose gradient changes on the way from the start."""

    def reads(self, images: Tensor) -> Tensor:
        return super().reads(images).sub(0.5).square()


@pytest.fixture
def _two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No third try, in a smaller ball."""
    monkeypatch.setattr(importlib.import_module("oodattack.attacks.direct"), "MIN_INNER", math.inf)


@pytest.mark.usefixtures("_two_tries")
def test_the_better_of_two_tries_is_kept() -> None:
    detector, some = Nonlinear(), samples(8)
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    # A single step from the start changes little; the second try begins where a longer attack ended.
    far = direct(followed, detector, some, Ball(3.0, 2, 60), None)
    short = Ball(3.0, 2, 1)
    alone = direct(followed, detector, some, short, None)
    both = direct(followed, detector, some, short, dequantize(far.images))
    scores = [detector.score(dequantize(found.images)) for found in (alone, both)]
    assert (scores[1] <= scores[0] + 1e-9).all()
    assert (scores[1] < scores[0]).any()
    torch.testing.assert_close(both.distance.float(), norms(both.images, some.start))
    # All evaluations of both tries count. Samples far below x_in have no second try.
    again = followed.ranks(scores[0]) > FAR_BELOW
    assert 0 < again.sum() < len(again)
    assert torch.equal(both.gradient_evaluations, alone.gradient_evaluations * (1 + again.long()))
    assert torch.equal(both.images[~again], alone.images[~again])


@pytest.mark.usefixtures("_two_tries")
def test_the_score_of_the_detector_selects_the_better_try() -> None:
    """The score that is followed may be another one, such as a smooth one; here it is the opposite."""
    detector, some = Nonlinear(), samples(8)
    opposite = Nonlinear()
    opposite.direction = -detector.direction
    followed = follow(opposite, some.x_in[:2], opposite.score(some.x_in))
    first = direct(followed, detector, some, BALL, None)
    second = direct(followed, detector, some, BALL, some.start)  # another try from the start is no better or worse
    best = follow(detector, some.x_in[:2], detector.score(some.x_in))
    low = direct(best, detector, some, BALL, None)
    both = direct(followed, detector, some, Ball(BALL.eps, 2, 1), dequantize(low.images))
    short = direct(followed, detector, some, Ball(BALL.eps, 2, 1), None)
    scores = [detector.score(dequantize(found.images)) for found in (both, short)]
    assert torch.equal(first.images, second.images)
    assert (scores[0] <= scores[1]).all()
    assert (scores[0] < scores[1]).any()


class Wavy(Linear):
    """A score whose waves are far shorter than the steps that suit a large ball."""

    def reads(self, images: Tensor) -> Tensor:
        return (40 * math.pi * images).cos().flatten(1).mean(1, keepdim=True)

    def judge(self, reads: Tensor) -> Tensor:
        return reads[:, 0]

    def score(self, images: Tensor) -> Tensor:
        return self.judge(self.reads(images))


def test_a_direct_attack_in_a_large_ball_is_no_weaker_than_in_one_a_fifth_as_large() -> None:
    detector, some = Wavy(), samples(8)
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    large, small = (Ball(eps, math.inf, 12) for eps in (0.25, 0.25 / INNER))
    alone, found = (run(followed.f, some, None, ball, grid_steps=12 // GRID_SHARE) for ball in (small, large))
    both = direct(followed, detector, some, large, None)
    scores = [detector.score(dequantize(images.images)) for images in (both, alone, found)]
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] < scores[2]).any()  # else the larger ball was no problem
    # The work of both counts, and where the smaller ball is better, that of a try from there.
    again, work = followed.ranks(scores[2]) > FAR_BELOW, both.gradient_evaluations - found.gradient_evaluations
    assert again.any()
    assert torch.equal(work > 0, again)
    assert torch.equal(work > alone.gradient_evaluations, again & (scores[1] < scores[2]))
    # Where a fifth of the ball allows less than half a grey level, there is no third try.
    tiny = Ball(2.4 / 255, math.inf, 12)
    once = run(followed.f, some, None, tiny, grid_steps=12 // GRID_SHARE)
    assert torch.equal(direct(followed, detector, some, tiny, None).gradient_evaluations, once.gradient_evaluations)


class Loud(Linear):
    """A score that is NaN where a pixel of the image is white."""

    def score(self, images: Tensor) -> Tensor:
        return torch.where((images == 1).flatten(1).any(1), torch.nan, super().score(images))


def _aimed(detector: Detector, some: Samples, lowest: Tensor, eps: float = 3.0) -> Found:
    return aimed(detector, Ranks(Linear().score(some.x_in)), some, Ball(eps, 2, 1), lowest)


def test_an_aimed_attack_ends_at_the_score_of_x_in() -> None:
    """A linear score takes all values between those of the start and of the lowest image, nearly evenly."""
    detector, some = Linear(), samples(16)
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    eps = 6.0
    lowest = dequantize(direct(followed, detector, some, Ball(eps, 2, 60), None).images)
    found = _aimed(detector, some, lowest, eps)
    images = dequantize(found.images)
    torch.testing.assert_close(found.distance.float(), norms(found.images, some.start))
    assert (found.distance <= eps * (1 + 1e-6)).all()
    assert ((images == some.start) | (images == lowest)).all()  # hence on the grid
    wanted, start, low, reached = (detector.score(x) for x in (some.x_in, some.start, lowest, images))
    between = (low < wanted) & (wanted < start)
    assert between.sum() > 3
    assert ((reached - wanted).abs()[between] < 0.02 * (start - low)[between]).all()
    above = low >= wanted
    assert torch.equal(images[above], lowest[above])
    assert (found.gradient_evaluations == 0).all()
    assert (found.forward_evaluations > 2).all()


def test_an_aimed_attack_returns_the_lowest_image_if_its_score_is_above_that_of_x_in() -> None:
    detector, some = Linear(), samples(4)
    order = detector.score(torch.cat([some.start, some.x_in])).argsort()
    images = torch.cat([some.start, some.x_in])[order]
    high = Samples(images[:2], images[-2:], [0, 1])
    lowest = images[4:6]
    assert torch.equal(dequantize(_aimed(detector, high, lowest).images), lowest)


def test_an_aimed_attack_avoids_images_without_a_score() -> None:
    detector, some = Loud(), samples(8)
    x_in, start = (dequantize(quantize(0.9 * images)) for images in (some.x_in, some.start))
    rises = (detector.weight @ detector.direction).reshape(3, 8, 8) > 0
    lowest = start.clone()
    start[:, rises], lowest[:, rises] = 1, 0
    batch = Samples(x_in, start, some.seeds)
    found = _aimed(detector, batch, lowest)
    assert detector.score(start).isnan().all()
    assert detector.score(dequantize(found.images)).isfinite().all()
    # If even the low image has no score, it is returned, whether the start has one or not.
    white = torch.ones_like(lowest)
    for starts in (start, lowest):
        assert torch.equal(dequantize(_aimed(detector, Samples(x_in, starts, some.seeds), white).images), white)


def test_an_aimed_attack_depends_on_its_seeds_and_not_on_its_batch() -> None:
    detector, some = Linear(), samples(6)
    followed = follow(detector, some.x_in[:2], detector.score(some.x_in))
    lowest = dequantize(direct(followed, detector, some, Ball(6.0, 2, 20), None).images)
    found = _aimed(detector, some, lowest)
    assert torch.equal(_aimed(detector, some, lowest).images, found.images)
    ranks = Ranks(detector.score(some.x_in))
    for row in range(6):
        alone = some.some(torch.tensor([row]))
        one = aimed(detector, ranks, alone, Ball(3.0, 2, 1), lowest[row : row + 1])
        assert torch.equal(one.images[0], found.images[row])
    other = Samples(some.x_in, some.start, [seed + 100 for seed in some.seeds])
    assert not torch.equal(_aimed(detector, other, lowest).images, found.images)


def test_a_latent_attack_matches_what_the_detector_reads_from_x_in() -> None:
    detector, some = Linear(), samples()
    found = latent(detector.reads, some, Ball(6.0, 2, 100))
    assert (norms(found.images, some.start) <= 6 * (1 + 1e-6)).all()
    reads = detector.reads(dequantize(found.images))
    assert (reads - detector.reads(some.x_in)).abs().max() < 0.02 * (detector.reads(some.start) - reads).abs().max()


@pytest.mark.parametrize("width", [1, 7, DIRECTIONS])
def test_differences_equal_the_gradient_if_they_span_what_is_read(width: int) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3 * 4 * 4, width, generator=generator, dtype=torch.float64)

    def reads(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weight).tanh()

    def judge(z: Tensor) -> Tensor:
        return (z**2).sum(1) + z[:, 0]

    x = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=generator)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    value, pullback = Differences(reads, judge)(reads, x, generators)
    exact, exact_pullback = Autograd()(lambda images: judge(reads(images)), x, [])
    ones = torch.ones(3, 1, dtype=torch.float64)
    assert torch.allclose(value, exact)
    assert torch.allclose(pullback(ones), exact_pullback(ones), rtol=1e-6, atol=1e-9)


def test_differences_along_few_directions_have_a_component_along_the_gradient() -> None:
    width = 4 * DIRECTIONS
    weights = torch.randn(width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    lift = torch.randn(192, width, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    differences = Differences(lambda images: images.flatten(1) @ lift, lambda z: z @ weights)
    pullback = differences(differences.reads, x, [torch.Generator().manual_seed(i) for i in range(2)])[1]
    found = pullback(torch.ones(2, 1, dtype=torch.float64)).flatten(1)
    gradient = lift @ weights
    assert (found @ gradient > 0).all()


def test_ranks_interpolate_between_scores_and_extrapolate_beyond() -> None:
    scores = torch.tensor([5.0, 1.0, 1.0, 2.0])
    ranks = Ranks(scores)
    given = torch.tensor([1.0, 1.5, 2.0, 5.0], dtype=torch.float64)
    # Positions 0.5 (two scores are tied), 2 and 3, scaled so that the first is 0 and the last 1.
    assert torch.allclose(ranks(given), torch.tensor([0.0, 0.3, 0.6, 1.0], dtype=torch.float64))
    spread = float(scores.std(correction=0))
    beyond = ranks(torch.tensor([1.0 - spread, 5.0 + 2 * spread]))
    assert torch.allclose(beyond, torch.tensor([-1.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("scores", [torch.ones(5), torch.full((3,), 1e30), torch.tensor([0.0, 1e-30, 1.0])])
def test_ranks_of_constant_huge_and_close_scores_are_finite_and_increase(scores: Tensor) -> None:
    x = (scores + scores.abs().max() * 0.1).clone().requires_grad_(True)
    ranks = Ranks(scores)(x)
    (gradient,) = torch.autograd.grad(ranks.sum(), x)
    assert ranks.isfinite().all()
    assert (gradient > 0).all()


def test_ranks_are_monotone() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0)).exp()
    given = torch.linspace(-2, 20, 500, dtype=torch.float64)
    found = Ranks(scores)(given)
    assert (found.diff() > 0).all()
    assert math.isclose(float(Ranks(scores)(scores.max())), 1.0)


def test_following_needs_some_finite_scores() -> None:
    with pytest.raises(ValueError, match="expected finite scores of in-distribution images, got none"):
        follow(Linear(), samples().x_in, torch.tensor([math.inf, math.inf]))
    followed = follow(Linear(), samples().x_in, torch.tensor([1.0, math.inf, 2.0]))
    assert torch.allclose(followed.ranks(torch.tensor([2.0])), torch.tensor([1.0], dtype=torch.float64))


def test_a_sorted_score_has_a_gradient() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh())
    net.requires_grad_(False)
    reads: Callable[[Tensor], Tensor] = net

    class Sorted(Linear):
        def reads(self, images: Tensor) -> Tensor:
            return reads(images)

        def score(self, images: Tensor) -> Tensor:
            return self.judge(self.reads(images))

        def judge(self, reads: Tensor) -> Tensor:
            scores: Tensor = reads.sort(dim=1).values[:, :3].sum(1)
            return scores

    some = samples()
    followed: Followed = follow(Sorted(), some.x_in[:2], Sorted().score(some.x_in))
    assert isinstance(followed.gradient, Autograd)
