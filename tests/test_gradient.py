"""Gradients: exact ones by autograd, and SPSA estimates for an f without a gradient."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oodattack.core.attack import attack
from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd, Spsa, get_gradient


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def make_encoder(width: int = 6) -> nn.Module:
    """A small smooth convolutional encoder with seeded weights."""
    net = nn.Sequential(
        nn.Conv2d(3, width, 5, stride=2, padding=2),
        nn.Tanh(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return net


def estimate(spsa: Spsa, quadratic: "Quadratic", x: Tensor, *seeds: int) -> Tensor:
    latent, pullback = spsa(flat, x, generators(*seeds))
    return pullback(quadratic.latent_gradient(latent))


class Quadratic:
    """``(x - center)^T diag(a) (x - center)`` per sample, whose gradient is known."""

    def __init__(self, batch: int) -> None:
        rng = torch.Generator().manual_seed(5)
        self.a = torch.rand(48, generator=rng, dtype=torch.float64)
        self.center = torch.rand(batch, 48, generator=rng, dtype=torch.float64)

    def latent_gradient(self, z: Tensor) -> Tensor:
        """The gradient with respect to z; f is the identity here."""
        return 2 * (z - self.center[: len(z)]) * self.a

    def gradient(self, x: Tensor) -> Tensor:
        return (2 * (flat(x) - self.center) * self.a).view_as(x)


def test_autograd_gives_per_sample_gradients() -> None:
    quadratic = Quadratic(batch=3)
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent, pullback = Autograd()(flat, x, [])
    gradient = pullback(quadratic.latent_gradient(latent))
    torch.testing.assert_close(gradient, quadratic.gradient(x))
    assert torch.equal(latent, flat(x))
    assert not any(tensor.requires_grad for tensor in (x, latent, gradient))


def test_autograd_does_not_modify_the_models_grad() -> None:
    net = make_encoder()
    latent, pullback = Autograd()(net, torch.rand(2, 3, 8, 8), [])
    pullback(latent)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("grad", [True, False])
def test_autograd_of_a_detached_graph_is_refused(grad: bool) -> None:
    """If x is detached before the weights, the output still requires a gradient: that of the weights."""
    net = make_encoder().requires_grad_(grad)
    latent, pullback = Autograd()(lambda x: net(x.detach()), torch.rand(1, 3, 8, 8), [])
    with pytest.raises(InputError, match=r"f gives no gradient: its output does not depend on its input.*spsa"):
        pullback(latent)


def test_spsa_is_unbiased_on_a_quadratic() -> None:
    """On a quadratic the central difference along v is exact, so the mean over v is the gradient."""
    quadratic = Quadratic(batch=2)
    x = 0.3 + 0.4 * torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent, pullback = Spsa(directions=3000)(flat, x, generators(1, 2))
    gradient, true = pullback(quadratic.latent_gradient(latent)), quadratic.gradient(x)
    cosine = torch.cosine_similarity(flat(gradient), flat(true))
    assert (cosine > 0.98).all()
    torch.testing.assert_close(flat(gradient).norm(dim=1), flat(true).norm(dim=1), rtol=0.05, atol=0)
    assert torch.equal(latent, flat(x))


def test_a_single_spsa_direction_gives_the_central_difference() -> None:
    quadratic, x = Quadratic(batch=1), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    g = estimate(Spsa(directions=1, radius=0.01), quadratic, x, 7)
    derivative = g.abs().flatten()[0]
    torch.testing.assert_close(g.abs(), derivative.expand_as(g))  # plus or minus the derivative in every pixel
    torch.testing.assert_close((g.sign() * quadratic.gradient(x)).sum().abs(), derivative)


def test_spsa_error_falls_with_the_root_of_the_number_of_directions() -> None:
    quadratic, x = Quadratic(batch=1), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    true = quadratic.gradient(x)

    def error(directions: int) -> float:
        tries = [estimate(Spsa(directions), quadratic, x, seed) - true for seed in range(20)]
        return float(torch.stack(tries).square().sum((1, 2, 3, 4)).mean().sqrt())

    assert error(16) / error(256) == pytest.approx(4, rel=0.2)


def test_spsa_does_not_depend_on_the_batch() -> None:
    quadratic = Quadratic(batch=3)
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = estimate(Spsa(4), quadratic, x, 1, 2, 3)
    for i in range(3):
        one = Quadratic(batch=3)
        one.center = quadratic.center[i : i + 1]
        alone = estimate(Spsa(4), one, x[i : i + 1], i + 1)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=0)


def test_spsa_stays_in_the_pixel_range_and_counts_its_calls() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x)
        return flat(x)

    spsa = Spsa(directions=5, radius=0.2)
    latent, pullback = spsa(f, torch.rand(2, 3, 4, 4).round(), generators(0, 1))
    pullback(latent)
    assert len(seen) == spsa.forwards == 11
    assert spsa.passes == 0
    assert all(((x >= 0) & (x <= 1)).all() for x in seen)


@pytest.mark.parametrize(
    ("directions", "radius", "message"),
    [
        (0, 0.1, "1 SPSA directions, got 0"),
        (2.5, 0.1, "a whole number of at least 1 SPSA directions, got 2.5"),
        (4, 0.0, "got 0.0"),
        (4, float("inf"), "got inf"),
        (4, "wide", "got 'wide'"),
    ],
)
def test_spsa_settings_are_checked(directions: Any, radius: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Spsa(directions, radius)


def test_get_gradient_accepts_two_names_and_gradient_objects() -> None:
    assert isinstance(get_gradient("autograd"), Autograd)
    assert isinstance(get_gradient("spsa"), Spsa)
    assert get_gradient(Spsa(3)) == Spsa(3)
    with pytest.raises(InputError, match="expected gradient 'autograd' or 'spsa', got 'sgd'"):
        get_gradient("sgd")
    with pytest.raises(TypeError, match="expected gradient as 'autograd', 'spsa' or a Spsa, got <class"):
        get_gradient(Spsa)  # type: ignore[arg-type]


def jpeg(x: Tensor) -> Tensor:
    """Round to 8 bits, compress as JPEG at quality 90 and decode, as an upload may do."""
    images = []
    for image in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        images.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(images).to(x.dtype) / 255


def test_spsa_attacks_through_jpeg_where_autograd_cannot() -> None:
    """The pipeline compresses and rounds its input, so it has no gradient."""
    net = make_encoder().requires_grad_(False)

    def pipeline(x: Tensor) -> Tensor:
        latent: Tensor = net(jpeg(x))
        return latent

    rng = torch.Generator().manual_seed(1)
    x_in = nn.functional.interpolate(torch.rand(2, 3, 4, 4, generator=rng), size=16, mode="bilinear")
    start = nn.functional.interpolate(torch.rand(2, 3, 4, 4, generator=rng), size=16, mode="bilinear")
    target = pipeline(x_in)
    with pytest.raises(InputError, match=r"f gives no gradient.*gradient='spsa'"):
        attack(pipeline, start, target, eps=3.0)
    result = attack(pipeline, start, target, eps=3.0, steps=30, gradient=Spsa(24), pixels=256)
    assert (result.mape < 0.9 * result.start_mape).all()
    torch.testing.assert_close(result.latent, pipeline(result.image))
    assert result.gradient_evaluations.tolist() == [0, 0]
    assert result.forward_evaluations.tolist() == [30 * 49 + 4] * 2
