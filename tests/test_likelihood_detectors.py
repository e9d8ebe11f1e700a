"""Detectors on flows: their scores against independent computations, and what they evaluate."""

import io
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gaussian_kde
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import jacrev
from torch.nn import functional as F

from oodattack.core.errors import InputError
from oodattack.detectors import BareEncoder, Detector, Ensemble, NotApplicableError
from oodattack.detectors.draws import seeded_by
from oodattack.detectors.likelihood import ImageModels, likelihood_detectors
from oodattack.detectors.likelihood.codecs import codecs
from oodattack.detectors.likelihood.dose import MAX_SAMPLES, log_kde
from oodattack.encoders import Encoder
from oodattack.networks import Glow
from oodattack.networks.glow.prior import TopPrior

ON_THE_FIRST_FLOW = ["NLL", "Typicality", "DoSE", "LastScale", "ApproximateMass"]
ON_A_SCORE_NETWORK = ("MSMA", "OneStep")
CODED = "InputComplexity"  # its gradient is that of a surrogate
ALL = ["NLL", "LikelihoodRatio", "WAIC", "Typicality", "DoSE", "LastScale", "ApproximateMass"]
D = 3 * 8 * 8


def flow(seed: int, size: int = 8) -> Glow:
    """An initialised Glow, all of whose parameters are away from their initial values, which hide errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Glow(size, steps=2, levels=2, width=8)
        model(torch.rand(16, 3, size, size))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRAIN = images(12, 1)
X = images(5, 2)
LOADER = [(TRAIN[:8], torch.zeros(8)), (TRAIN[8:], torch.zeros(4))]
MODELS = ImageModels((flow(0), flow(1), flow(2)), flow(3))


def subject(size: int = 8) -> BareEncoder:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return BareEncoder(Encoder(net, name="mine", input_size=(size, size)))


@cache
def detectors(models: ImageModels = MODELS, dequantise: int = 0) -> dict[str, Any]:
    makers = likelihood_detectors(models, dequantise)
    found = {name: make(subject()) for name, make in makers.items() if name not in ON_A_SCORE_NETWORK}
    for detector in found.values():
        detector.fit(LOADER)
    return found


def bits(model: Glow, x: Tensor) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = model.bits_per_dim(x).numpy()
    return result


def dose(x: Tensor) -> np.ndarray[Any, Any]:
    def statistics(x: Tensor) -> np.ndarray[Any, Any]:
        encoding = MODELS.flows[0].encode(x)
        found: np.ndarray[Any, Any] = torch.stack([encoding.log_prob, encoding.log_p.sum(1), encoding.log_det]).numpy()
        return found

    pairs = zip(statistics(x), statistics(TRAIN), strict=True)
    return -np.sum([gaussian_kde(train, "scott").logpdf(values) for values, train in pairs], axis=0)  # type: ignore[no-any-return]


def last_scale(x: Tensor) -> np.ndarray[Any, Any]:
    """The top level as a map of its own: the density of its output times the determinant of its Jacobian."""
    model, found = MODELS.flows[0], []
    for image in x:
        first, _ = model.flows[0](F.pixel_unshuffle((255 * image[None] + 0.5) / 256 - 0.5, 2))
        enters = F.pixel_unshuffle(first[:, :6], 2)
        z, _ = model.flows[1](enters)
        mean, log_std = model.priors[1]()
        density = Normal(mean, log_std.exp()).log_prob(z).sum()  # type: ignore[no-untyped-call]
        jacobian = jacrev(lambda h: model.flows[1](h[None])[0])(enters[0]).view(96, 96)
        found.append(float(-(density + torch.linalg.slogdet(jacobian)[1])))
    scores: np.ndarray[Any, Any] = np.array(found) / (D * np.log(2))
    return scores


def gradient_norm(x: Tensor) -> np.ndarray[Any, Any]:
    """By central differences of every pixel."""
    steps = 1e-6 * torch.eye(D, dtype=torch.float64).view(D, 3, 8, 8)
    slopes = [(MODELS.flows[0](image + steps) - MODELS.flows[0](image - steps)) / 2e-6 for image in x]
    return torch.stack(slopes).norm(dim=1).numpy()  # type: ignore[no-any-return]


def shortest(x: Tensor) -> np.ndarray[Any, Any]:
    """Encoded one by one, and decoded again to the same pixels."""
    found = []
    for image in (255 * x).round().byte().permute(0, 2, 3, 1).numpy():
        files = [imagecodecs.jpegxl_encode(image, lossless=True, effort=5)]
        choices: list[dict[str, Any]] = [
            {"format": "PNG", "optimize": True},
            {"format": "WebP", "lossless": True, "quality": 50},
        ]
        for options in choices:
            file = io.BytesIO()
            Image.fromarray(image).save(file, **options)
            assert (np.asarray(Image.open(file)) == image).all()
            files.append(file.getvalue())
        assert (imagecodecs.jpegxl_decode(files[0]) == image).all()
        found.append(min(map(len, files)))
    return np.array(found)


def waic(x: Tensor) -> np.ndarray[Any, Any]:
    nats = -np.stack([bits(model, x) for model in MODELS.flows]) * D * np.log(2)
    return -(nats.mean(0) - nats.var(0))  # type: ignore[no-any-return]


FORMULAS: dict[str, Callable[[Tensor], np.ndarray[Any, Any]]] = {
    "NLL": lambda x: bits(MODELS.flows[0], x),
    "LikelihoodRatio": lambda x: bits(MODELS.flows[0], x) - bits(MODELS.background, x),  # type: ignore[arg-type]
    "WAIC": waic,
    "Typicality": lambda x: np.abs(bits(MODELS.flows[0], x) - bits(MODELS.flows[0], TRAIN).mean()),
    "DoSE": dose,
    "LastScale": last_scale,
    "ApproximateMass": gradient_norm,
    CODED: lambda x: bits(MODELS.flows[0], x) - 8 * shortest(x) / D,
}


@pytest.mark.parametrize("name", [*ALL, CODED])
def test_a_score_is_its_formula(name: str) -> None:
    scores = detectors()[name].score(X)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), FORMULAS[name](X), rtol=1e-6)


@pytest.mark.parametrize("name", [*ALL, CODED])
def test_a_score_is_a_function_of_the_shared_reading(name: str) -> None:
    detector = detectors()[name]
    reads = detector.reads(X)
    assert reads.shape == (5, 2 * 2 + 2 + 1 + len(codecs()) + 1) == (5, len(detector.parts))
    assert detector.reading == "likelihoods"
    scores = detector.score(X)
    torch.testing.assert_close(detector.judge(reads), scores)
    torch.testing.assert_close(torch.cat([detector.score(image) for image in torch.split(X, 1)]), scores)
    with torch.inference_mode():
        torch.testing.assert_close(detector.score(X.clone()), scores)


def test_all_detectors_read_the_same_and_the_reading_is_differentiable() -> None:
    found = detectors()
    x = X.clone().requires_grad_(True)
    reads = {name: detector.reads(x) for name, detector in found.items()}
    for other in reads.values():
        torch.testing.assert_close(other, reads["NLL"])
    for column in reads["NLL"].T:
        (gradient,) = torch.autograd.grad(column.sum(), x, retain_graph=True)
        assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_scores(name: str) -> None:
    detector = detectors()[name]
    x = X.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(detector.sample(x).sum(), x)
    direction = images(5, 3) - 0.5
    difference = (detector.score(X + 1e-6 * direction) - detector.score(X - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["Typicality", "DoSE", CODED])
def test_a_fit_is_saved_and_loaded_without_executing_code(name: str) -> None:
    fitted, other = (likelihood_detectors(MODELS)[name](subject()) for _ in range(2))
    fitted.fit(LOADER)
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.score(X), fitted.score(X))


def test_dose_is_fitted_to_images_from_the_whole_loader() -> None:
    tiny, count = flow(0, 4), MAX_SAMPLES + 500
    some = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    detector: Any = likelihood_detectors(ImageModels((tiny,)))["DoSE"](subject(4))
    detector.fit([(part, torch.zeros(len(part))) for part in torch.split(some, 500)])
    nats = tiny.log_prob(some)
    kept = detector.statistics[:, 0]
    assert len(kept) == MAX_SAMPLES
    torch.testing.assert_close(kept[[0, -1]], nats[[0, -1]])
    assert abs(float((kept < nats.median()).double().mean()) - 0.5) < 0.05


def test_dose_refuses_images_that_are_all_the_same() -> None:
    detector = likelihood_detectors(MODELS)["DoSE"](subject())
    with pytest.raises(InputError, match="expected training images with different likelihoods, got 4 without"):
        detector.fit([(TRAIN[:1].expand(4, -1, -1, -1), torch.zeros(4))])


def test_a_density_far_from_its_samples_is_finite_and_falls() -> None:
    at = torch.tensor([[10.0], [1e6], [1e12]], dtype=torch.float64, requires_grad=True)
    found = log_kde(at, torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    (slope,) = torch.autograd.grad(found.sum(), at)
    assert bool(found.isfinite().all())
    assert bool((slope < 0).all())


def test_gradients_beyond_the_range_of_float32_have_a_norm() -> None:
    """Where squares of the gradient overflow: the top level is divided by a tiny standard deviation."""
    single, double = flow(0).float(), flow(0)
    for model in (single, double):
        cast(TopPrior, model.priors[1]).log_std.data.fill_(-22)
    scores = [
        likelihood_detectors(ImageModels((model,)))["ApproximateMass"](subject()).score(X.to(dtype))
        for model, dtype in ((single, torch.float32), (double, torch.float64))
    ]
    assert bool((scores[1] > torch.finfo(torch.float32).max ** 0.5).all())
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=0)


def passes_of(model: Glow) -> list[int]:
    """The batch sizes of all passes of a flow from now on."""
    seen: list[int] = []
    model.flows[0].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("dequantise", [0, 3])
def test_an_ensemble_evaluates_each_model_once(dequantise: int) -> None:
    models = ImageModels((flow(0), flow(1)), flow(2))
    found = detectors(models, dequantise)
    ensemble = Ensemble(found, {name: detector.score(TRAIN) for name, detector in found.items()})
    passes = [passes_of(model) for _, model in models.named() if isinstance(model, Glow)]
    x = X.clone().requires_grad_(True)
    torch.autograd.grad(ensemble.sample(x).sum(), x)
    assert passes == [[5] * max(dequantise, 1)] * 3


def test_scores_of_the_same_images_share_a_pass() -> None:
    models = ImageModels((flow(0), flow(1)), flow(2))
    found, x = detectors(models), X.clone()
    passes = [passes_of(model) for _, model in models.named() if isinstance(model, Glow)]
    before = {name: detector.score(x) for name, detector in found.items()}
    assert passes == [[5, 5], [5], [5]]  # the gradient of the first takes one more
    x.mul_(0.5)
    assert all((detector.score(x) != before[name]).all() for name, detector in found.items())


@pytest.mark.parametrize("name", ON_THE_FIRST_FLOW)
def test_models_that_a_score_does_not_need_are_not_evaluated(name: str) -> None:
    models = ImageModels((flow(0), flow(1)), flow(2))
    detector = detectors(models)[name]
    passes = [passes_of(model) for _, model in models.named() if isinstance(model, Glow)]
    detector.score(X)
    detector.sample(X.clone().requires_grad_(True))
    assert passes == [[5, 5], [], []]


def test_a_dequantised_score_is_the_mean_over_draws_of_each_image() -> None:
    detector = detectors(dequantise=4)["NLL"]
    expected = []
    for image in torch.split(X, 1):
        with seeded_by(image):
            noise = torch.rand(4, 3, 8, 8).double()
        expected.append(MODELS.flows[0].bits_per_dim(image.expand(4, -1, -1, -1), noise).mean())
    torch.manual_seed(7)  # the caller's generator has no influence, and is not moved
    state = torch.get_rng_state()
    torch.testing.assert_close(detector.score(X), torch.stack(expected))
    torch.testing.assert_close(detector.score(X.flip(0)).flip(0), torch.stack(expected))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(detector.score(X), detectors()["NLL"].score(X))


@pytest.mark.parametrize("name", ["NLL", "Typicality", "ApproximateMass"])
def test_samples_of_a_dequantised_score_are_as_the_score_with_other_draws(name: str) -> None:
    models = ImageModels((flow(0),))
    drawn, fixed = (likelihood_detectors(models, count)[name](subject()) for count in (4, 0))
    drawn.fit(LOADER)
    assert (drawn.judge, drawn.draws) == (None, 1)
    torch.testing.assert_close(drawn.reads(X), fixed.reads(X))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        samples = torch.stack([drawn.sample(X) for _ in range(30)])
    assert (samples[0] != samples[1]).all()
    assert ((drawn.score(X) - samples.mean(0)).abs() < 5 * samples.std(0)).all()


def test_detectors_without_their_models_do_not_apply() -> None:
    makers, one = likelihood_detectors(ImageModels()), likelihood_detectors(ImageModels((flow(0),)))
    for name in ALL:
        with pytest.raises(NotApplicableError, match=r"^it needs a flow; name one, .* with --model trained:DIR$"):
            makers[name](subject())
    with pytest.raises(NotApplicableError, match=r"^it needs a background model; .* --mutate"):
        one["LikelihoodRatio"](subject())
    with pytest.raises(NotApplicableError, match=r"^it needs at least 2 flows; .* with different seeds$"):
        one["WAIC"](subject())
    for name in ON_THE_FIRST_FLOW:
        assert isinstance(one[name](subject()), Detector)


@pytest.mark.parametrize("name", ALL)
def test_detectors_refuse_images_of_another_size(name: str) -> None:
    message = r"^it needs images of 8x8 pixels, as its flow was trained on, and the encoder takes 16x16; .* 8$"
    with pytest.raises(NotApplicableError, match=message):
        likelihood_detectors(MODELS)[name](subject(16))
    other = ImageModels((flow(0), flow(1)), Glow(16, steps=1, levels=2, width=2))
    with pytest.raises(NotApplicableError, match="of 16x16 pixels, as its background model was trained on"):
        likelihood_detectors(other)[name](subject())


def test_a_negative_number_of_draws_is_refused() -> None:
    with pytest.raises(InputError, match="expected dequantise to be a number of draws, or 0 for the middle, got -1"):
        likelihood_detectors(MODELS, -1)
