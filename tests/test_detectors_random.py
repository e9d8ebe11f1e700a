"""Random scores: judged on draws that depend on the image alone, attacked in expectation over others."""

from typing import Any

import pytest
import torch
from pytorch_ood.detector import MCD
from torch import Tensor, nn

from oodattack.attacks import Ball, Samples, direct, follow
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier, Detector, Own, make_detectors
from oodattack.detectors.draws import seeded_by
from oodattack.encoders import Encoder

X = dequantize(torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8))


class Net(nn.Module):
    """Dropout before the head, within the network, or both."""

    def __init__(self, before: float, within: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 4)
        nn.init.normal_(self.head.weight, 0, 3, generator=torch.Generator().manual_seed(0))
        self.within, self.before = nn.Dropout(within), nn.Dropout(before)

    def forward(self, x: Tensor) -> Tensor:
        x = self.within(torch.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(self.before(x.mean((2, 3))))
        return logits


def dropout(before: float, within: float) -> tuple[Net, Any]:
    net = Net(before, within).eval()
    subject = Classifier(Encoder(net, name="mine", input_size=(8, 8)))
    return net, make_detectors(subject, ["MCD"])[0]["MCD"]


PLACES = [(0.3, 0.0), (0.0, 0.3), (0.3, 0.3)]


@pytest.mark.parametrize("places", PLACES)
def test_dropout_is_judged_on_draws_of_each_image(places: tuple[float, float]) -> None:
    net, detector = dropout(*places)
    assert detector.on_features == (places == (0.3, 0.0))
    scores = detector.score(X)
    torch.manual_seed(7)  # the caller's generator has no influence, and is not moved
    state = torch.get_rng_state()
    assert torch.equal(detector.score(X.flip(0)).flip(0), scores)
    assert torch.equal(torch.get_rng_state(), state)
    # Images that differ by one level have other draws: almost the same z, but another score.
    nearby = X.clone()
    nearby[:, 0, 0, 0] = (nearby[:, 0, 0, 0] - 1 / 255).abs()
    assert ((detector.score(nearby) - scores).abs() > 1e-4 * scores).all()
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("places", PLACES)
def test_samples_of_dropout_have_the_expectation_of_the_librarys_score(places: tuple[float, float]) -> None:
    net, detector = dropout(*places)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library = torch.stack([MCD(net).predict(X) for _ in range(100)]).mean(0)
        samples = torch.stack([detector.sample(X) for _ in range(100)]).mean(0)
    torch.testing.assert_close(samples, library, rtol=0.25, atol=0)


def test_only_dropout_is_active_and_only_during_a_pass() -> None:
    net, detector = dropout(0.3, 0.3)
    seen: list[tuple[bool, bool]] = []
    net.head.register_forward_hook(lambda *_: seen.append((net.before.training, net.norm.training)))
    x = X.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(detector.sample(x).sum(), x)
    assert seen
    assert set(seen) == {(True, False)}
    assert (gradient.flatten(1).abs().amax(1) > 0).all()

    def fail(*_: object) -> None:
        raise RuntimeError

    net.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError):
        detector.sample(X)
    assert not any(module.training for module in net.modules())


class Noisy(Detector):
    """A linear score plus noise from torch's global generator."""

    draws = 4

    def __init__(self) -> None:
        self.weight = torch.randn(192, generator=torch.Generator().manual_seed(0)) / 10

    def fit(self, loader: Any) -> None:
        pass

    def reads(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.weight)[:, None]

    def score(self, images: Tensor) -> Tensor:
        return self.reads(images)[:, 0] + torch.randn(len(images)) / 10


def test_a_users_random_score_is_the_same_in_every_batch_but_not_in_every_sample() -> None:
    detector = Own(Noisy(), "")
    scores = detector.score(X)
    assert torch.equal(torch.cat([detector.score(X[:1]), detector.score(X[1:])]), scores)
    noise = scores - detector.reads(X)[:, 0]
    assert len(set(noise.tolist())) == len(X)
    assert not torch.equal(detector.sample(X), detector.sample(X))


def test_a_random_score_is_attacked_in_expectation() -> None:
    detector = Own(Noisy(), "")
    followed = follow(detector, X[:2], detector.score(X))
    assert followed.how.startswith("gradient of the score, in expectation over its draws")
    assert followed.slope.agreeing == followed.slope.compared == 2
    state = torch.get_rng_state()
    once, again = followed.f(X), followed.f(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(once, again)
    renewed = follow(detector, X[:2], detector.score(X)).f
    assert torch.equal(renewed(X), once)  # the sequence of draws is the same in every attack
    torch.testing.assert_close(renewed(X), again)
    # The mean of four draws is half as noisy as one draw.
    images = X[:1].expand(500, -1, -1, -1)
    inside = detector.reads(X[:1])[0, 0]
    spread = (Noisy.draws**0.5) * _mean_of_draws(detector, images).sub(inside).std()
    assert 0.08 < spread < 0.12
    samples = Samples(X[:3], X[3:], [0, 1, 2])
    found = direct(followed, detector, samples, Ball(2.0, 2, 30), None)
    before, after = detector.reads(X[3:]), detector.reads(dequantize(found.images))
    assert (after < before).any()


def _mean_of_draws(detector: Detector, images: Tensor) -> Tensor:
    wide = torch.linspace(-100, 100, 3)  # ranks are linear between two scores
    ranks = follow(detector, X[:1], wide)
    middle, scale = ranks.ranks(torch.zeros(1)), ranks.ranks(torch.ones(1)) - ranks.ranks(torch.zeros(1))
    return ((ranks.f(images) - middle) / scale).detach()


def test_draws_are_a_whole_number() -> None:
    inner = Noisy()
    inner.draws = 0
    with pytest.raises(InputError, match="expected the detector's draws to be a whole number of at least 1, got 0"):
        Own(inner, "")


def test_draws_are_seeded_by_the_8_bit_pixels() -> None:
    def draw(image: Tensor) -> float:
        with seeded_by(image):
            return float(torch.rand(1))

    assert draw(X[:1]) == draw(X[:1].double()) != draw(X[1:2])
