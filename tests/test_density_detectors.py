"""Codecs, score networks and flows of features: lengths, denoising, densities, and what is missing without extras."""

import io
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from oodattack.attacks import Ball, Samples, nll
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import BareEncoder, NotApplicableError
from oodattack.detectors.likelihood import ImageModels
from oodattack.detectors.likelihood.code_lengths import CodeLengths
from oodattack.detectors.likelihood.codecs import codecs, lengths
from oodattack.detectors.likelihood.feature_flow import FeatureFlow, _build, _train
from oodattack.detectors.likelihood.score_based import MSMA, OneStep
from oodattack.encoders import Encoder
from oodattack.images.generated import generate
from oodattack.networks import Glow, build_image_model
from oodattack.networks.score import SIGMA_DATA, SIGMAS
from tests.score_networks import images, random_network


def subject(size: int = 8) -> BareEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))
        net(torch.zeros(1, 3, size, size))
    return BareEncoder(Encoder(net, name="mine", input_size=(size, size), layer="output"))


LOADER = [(images(40, 1), torch.zeros(40)), (images(24, 2), torch.zeros(24))]


def saved(detector: Any, other: Any) -> Any:
    """The other detector with the state of the first, as a file stores it."""
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def test_noise_is_longer_than_a_picture_and_a_picture_than_a_constant() -> None:
    spiral, noise, constant = (generate(spec, (32, 32), seed=0) for spec in ("spiral", "noise", "solid:gray"))
    assert spiral is not None and noise is not None and constant is not None  # noqa: PT018
    found = lengths(torch.stack([constant, spiral, noise]))
    assert bool((found.diff(dim=0) > 0).all())
    estimates = CodeLengths().estimate(dequantize(torch.stack([constant, spiral, noise])))
    assert bool((estimates.diff(dim=0) > 0).all())


def test_a_descent_on_the_surrogate_shortens_the_files() -> None:
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 3, 32, 32)
    sizes, x = CodeLengths(), ramp + 0.1 * (images(2, 4, 32) - 0.5)
    before = sizes(x)
    for _ in range(40):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(sizes(x).sum(), x)
        x = (x - 0.3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1).detach()
    assert bool((sizes(x) < before).all())


def test_jpeg_xl_is_left_out_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(codecs()) == ["PNG", "WebP", "JPEG 2000", "JPEG XL"]
    monkeypatch.setattr("oodattack.detectors.likelihood.codecs.find_spec", lambda _: None)
    assert CodeLengths().names == ("PNG", "WebP", "JPEG 2000")


def test_without_its_network_a_denoiser_is_that_of_gaussian_pixels() -> None:
    """For pixels ~ N(0.5, sd^2), E[x | x + noise] = 0.5 + sd^2 / (sd^2 + sigma^2) (x - 0.5)."""
    net = random_network()
    with torch.no_grad():
        for parameter in net.unet.out.parameters():
            parameter.zero_()
    x, sigma = images(4, 6), torch.tensor([0.01, 0.1, 0.5, 1.0])
    shrink = (SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma.square()))[:, None, None, None]
    torch.testing.assert_close(net.denoise(x, sigma), 0.5 + shrink * (x - 0.5))
    expected = -(x - 0.5) / (SIGMA_DATA**2 + sigma.square())[:, None, None, None]
    torch.testing.assert_close(net.score(x, sigma), expected, rtol=1e-3, atol=1e-3)


def test_a_score_network_returns_the_norms_of_its_scores() -> None:
    net, x = random_network(), images(3, 7)
    norms = net(x)
    for column, sigma in enumerate(SIGMAS):
        score = net.score(x, torch.full((3,), sigma))
        torch.testing.assert_close(norms[:, column], sigma * score.flatten(1).norm(dim=1))
    assert SIGMAS[0] == 1
    assert SIGMAS[-1] == pytest.approx(0.01)
    sampled = net.sample(2, torch.Generator().manual_seed(0))
    assert sampled.shape == (2, 3, 8, 8)
    assert 0 <= float(sampled.min()) <= float(sampled.max()) <= 1


def test_msma_is_the_density_of_scikit_learns_mixture() -> None:
    detector = MSMA(ImageModels(score_network=random_network()), subject())
    dim = 0.4 + 0.2 * images(20, 17)  # another cluster, so that there are components of unequal weight
    loader = [*LOADER, (dim, torch.zeros(len(dim)))]
    detector.fit(loader)
    assert len(detector.weights) > 1
    assert float(detector.weights.std()) > 0.05
    x = torch.cat([images(5, 8), 0.4 + 0.2 * images(5, 18)])
    train = torch.cat([detector.reads(part) for part, _ in loader]).detach().double().numpy()
    mixtures = [GaussianMixture(n, reg_covar=1e-6, random_state=0).fit(train) for n in (1, 2, 4)]
    best = min(mixtures, key=lambda mixture: float(mixture.bic(train)))
    expected = -best.score_samples(detector.reads(x).detach().double().numpy())
    np.testing.assert_allclose(detector.score(x).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [MSMA, OneStep])
def test_detectors_on_a_score_network_are_deterministic_saved_and_differentiable(kind: Any) -> None:
    models = ImageModels(score_network=random_network())
    detector = kind(models, subject())
    detector.fit(LOADER)
    x = images(5, 9)
    scores = detector.score(x)
    alone = torch.cat([detector.score(image) for image in torch.split(x, 1)])
    torch.testing.assert_close(alone, scores, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(saved(detector, kind(models, subject())).score(x), scores)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(detector.sample(x).sum(), x)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())
    assert detector.reads(x).shape == (5, len(detector.parts))


@pytest.mark.parametrize("kind", [MSMA, OneStep])
def test_detectors_on_a_score_network_need_one_of_the_same_size(kind: Any) -> None:
    with pytest.raises(NotApplicableError, match=r"it needs a score network; name one, .* --model trained:DIR"):
        kind(ImageModels(), subject())
    with pytest.raises(NotApplicableError, match="needs images of 8x8 pixels, as its score network was trained on"):
        kind(ImageModels(score_network=random_network()), subject(16))


@pytest.mark.parametrize(("count", "components"), [(64, 6), (20, 4)])
def test_a_flow_of_features_is_a_density(count: int, components: int) -> None:
    """log p(z) = log p(u) + log|du/dz| by autograd, also where a Gaussian models what the components leave of z."""
    detector = FeatureFlow(subject())
    state = torch.get_rng_state()
    detector.fit([(images(count, 1), torch.zeros(count))])
    assert torch.equal(torch.get_rng_state(), state)
    assert detector.axes.shape == (6, components)
    others = torch.linalg.qr(detector.axes, mode="complete")[0][:, components:] / detector.rest.sqrt()
    flow = detector.flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():  # far from the identity
            parameter.add_(0.1 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))

    def base(z: Tensor) -> Tensor:
        standard = (z - detector.mean) / detector.std
        inner = flow().transform(standard @ detector.axes / detector.scale)
        return torch.cat([inner, standard @ others])

    z = detector.reads(images(3, 10)).detach().double()
    for row in z:
        jacobian = torch.autograd.functional.jacobian(base, row)  # type: ignore[no-untyped-call]
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(base(row)).sum()  # type: ignore[no-untyped-call]
        expected = -(normal + torch.linalg.slogdet(jacobian)[1])
        torch.testing.assert_close(detector.judge(row[None])[0], expected, rtol=1e-6, atol=1e-6)


def test_a_flow_of_features_has_scores_and_gradients_far_from_the_data() -> None:
    detector = FeatureFlow(subject())
    detector.fit(LOADER)
    z = detector.reads(images(5, 10)).detach()
    previous = detector.judge(z).max()
    for distance in (1e3, 1e5, 1e8):
        far = (detector.mean + distance * (z - detector.mean)).float().requires_grad_(True)
        scores = detector.judge(far)
        assert bool((scores > previous).all())
        (gradient,) = torch.autograd.grad(scores.sum(), far)
        assert bool(gradient.isfinite().all())
        assert bool((gradient * (far - detector.mean)).sum(1).gt(0).all())  # it points away from the data
        previous = scores.detach()


def test_a_flow_of_features_accepts_constant_features() -> None:
    place = subject()
    linear = place.encoder.model[3]  # type: ignore[index]
    with torch.no_grad():
        linear.weight[2] = 0.0
    changed = BareEncoder(Encoder(place.encoder.model, name="mine", input_size=(8, 8), layer="output"))
    detector = FeatureFlow(changed)
    detector.fit(LOADER)
    z = detector.reads(images(5, 10)).detach()
    assert bool((z[:, 2] == z[0, 2]).all())
    scores = detector.judge(z)
    assert bool(scores.isfinite().all())
    z[:, 2] += 1
    assert bool((detector.judge(z) > scores).all())


@pytest.mark.parametrize("centre", [0.5, -1.0])  # passed on the way to the other features; on the far side of them
def test_a_flow_of_features_begins_as_a_gaussian_and_is_the_best_on_held_out_features(centre: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, held_out = 2 + torch.randn(400, 3, generator=generator), centre + torch.randn(100, 3, generator=generator)
    with torch.random.fork_rng(devices=[]):
        flow = _build(3)
        gaussian = torch.distributions.Normal(0.0, 1.0).log_prob(held_out).sum(1)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(flow().log_prob(held_out), gaussian)
        seen: list[float] = []

        def record(_: nn.Module, __: object, density: torch.distributions.Distribution) -> None:
            if not torch.is_grad_enabled():  # an evaluation, not a step
                seen.append(float(density.log_prob(held_out).mean()))

        hook = flow.register_forward_hook(record)
        _train(flow, rows, held_out)
        hook.remove()
    best = max(*seen, float(gaussian.mean()))
    assert float(flow().log_prob(held_out).mean()) == pytest.approx(best, abs=1e-5)


def test_a_flow_of_features_without_zuko_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(NotApplicableError, match=r"it needs zuko: pip install 'oodattack\[flows\]'"):
        FeatureFlow(subject())


def test_a_flow_of_features_is_saved_and_needs_images() -> None:
    detector = FeatureFlow(subject())
    detector.fit(LOADER)
    x = images(5, 11)
    scores = detector.score(x)
    torch.testing.assert_close(saved(detector, FeatureFlow(subject())).score(x), scores)
    with pytest.raises(InputError, match="expected at least 20 training images for a flow, got 3"):
        detector.fit([(images(3, 12), torch.zeros(3))])


@pytest.mark.parametrize("missing", ["einops", "monai.networks.nets.diffusion_model_unet"])
def test_score_networks_without_monai_are_a_sentence(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"pip install 'oodattack\[diffusion\]'"):
        build_image_model("unet-w8", 8)
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected network to be unet-w32"):
        build_image_model("unet", 8)
    with pytest.raises(InputError, match="a multiple of 4"):
        build_image_model("unet-w8", 10)


def flow(size: int = 16) -> Glow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Glow(size, steps=1, levels=2, width=8)
        model(torch.rand(16, 3, size, size), torch.rand(16, 3, size, size))
    return model.eval()


def test_a_likelihood_between_two_reached_values_is_matched_on_the_grid() -> None:
    """The start is less likely than the target, and an image in its ball more likely, or the other way round."""
    model, start = flow(), dequantize(quantize(images(4, 13, 16)))
    ball = Ball(eps=2.0, norm=2, steps=15)
    value = model.bits_per_dim(start).detach()
    far = value + torch.tensor([-0.02, 0.02, -0.01, 0.05])
    found = nll(model, Samples(start, start, range(4)), ball, far)
    reached = model.bits_per_dim(dequantize(found.images)).detach()
    assert bool(((reached - far).abs() < 0.002).all())
    assert bool((found.distance <= ball.eps * (1 + 1e-6)).all())
    assert bool((found.gradient_evaluations <= ball.steps).all())


def test_a_likelihood_out_of_reach_is_approached_within_the_ball() -> None:
    model, start = flow(), dequantize(quantize(images(3, 14, 16)))
    before = model.bits_per_dim(start).detach()
    found = nll(model, Samples(start, start, range(3)), Ball(0.05, 2, 5), before - 5)
    after = model.bits_per_dim(dequantize(found.images)).detach()
    assert bool((after <= before).all())
    assert bool((found.distance <= 0.05 * (1 + 1e-6)).all())


def test_the_default_target_is_that_of_x_in() -> None:
    model, samples = flow(), Samples(images(2, 15, 16), dequantize(quantize(images(2, 16, 16))), range(2))
    ball = Ball(3.0, 2, 15)
    with torch.no_grad():
        target = model.bits_per_dim(samples.x_in)
    assert torch.equal(nll(model, samples, ball).images, nll(model, samples, ball, target).images)
