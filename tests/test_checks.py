"""The checks of f and its images before an attack starts, none of which may change f."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodattack.core.attack import attack
from oodattack.core.checks import check_health, check_pixels, evaluation_mode
from oodattack.core.errors import InputError


def make_model() -> nn.Module:
    """A model with every kind of flag: dropout, batch norm, a frozen layer, a part already in eval mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5))
    model[0].weight.requires_grad_(False)
    model[1].eval()
    return model


def flags(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_evaluation_mode_freezes_and_restores_every_flag() -> None:
    model = make_model()
    before = flags(model)
    with evaluation_mode(model):
        modes, grads = flags(model)
        assert not any(modes)
        assert not any(grads)
    assert flags(model) == before


def test_evaluation_mode_restores_after_an_exception() -> None:
    model = make_model()
    before = flags(model)
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert flags(model) == before


def test_an_attack_leaves_the_model_as_it_was() -> None:
    model = make_model()
    before = flags(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = attack(model, images(), torch.randn(2, 5, generator=torch.Generator().manual_seed(1)), eps=1.0, steps=5)
    assert (result.mape < result.start_mape).all()
    assert flags(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_an_attack_that_fails_half_way_leaves_the_model_as_it_was() -> None:
    model = make_model()
    before = flags(model)

    def stop(n: int, _: Tensor) -> None:
        if n == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack(model, images(), torch.zeros(2, 5) + 1, eps=1.0, steps=5, callback=stop)
    assert flags(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_healthy_model_passes_in_train_and_in_eval_mode() -> None:
    check_health(make_model().train(), images())
    check_health(make_model().eval(), images())


class Random(nn.Module):
    """Noise that eval mode does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.rand_like(x)).mean((2, 3))


class BatchStatistics(nn.Module):
    """Batch normalisation that eval mode does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean((2, 3))
        return (z - z.mean(0)) / (z.var(0, unbiased=False) + 0.1)


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy()).mean((2, 3))


UNHEALTHY: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "random": (Random(), "f is random: the same image gave two different latents; switch off dropout"),
    "mixes": (BatchStatistics(), "f mixes the samples of a batch.*batch normalisation in eval mode"),
    "fails": (
        nn.Conv2d(1, 1, 1),
        r"f fails on one or two images of shape \(3, 8, 8\), torch.float32, on cpu: .*check the",
    ),
    "dtype": (nn.Sequential(nn.Flatten(), nn.Linear(192, 2).double()), "f fails on one or two images.*dtype"),
    "a map": (nn.Conv2d(3, 2, 1), r"to \(1, K\) or \(1,\), got \(1, 2, 8, 8\); flatten its output"),
    "no batch": (lambda x: mean(x)[0], r"to \(1, K\) or \(1,\), got \(3,\)"),
    "a tuple": (lambda x: (mean(x),), r"expected f to map \(1, 3, H, W\) to \(1, K\) or \(1,\), got tuple"),
    "nan": (
        lambda x: mean(x).log() * math.nan,
        "f gives NaN or infinity on the start image; check its weights",
    ),
    "infinite": (lambda x: mean(x) / 0, "f gives NaN or infinity on the start image"),
    "detached": (
        lambda x: mean(x.detach()),
        "f gives no gradient with respect to its input.*gradient='spsa'",
    ),
    "numpy": (through_numpy, "f gives no gradient with respect to its input.*numpy"),
    "nan gradient": (
        lambda x: mean((x * 0).sqrt()),
        "f has a gradient of NaN or infinity at the start image; look for",
    ),
    "rounds": (lambda x: mean((x * 255).round()), "f has a gradient of zero at every point tried"),
}


@pytest.mark.parametrize("name", UNHEALTHY)
def test_unhealthy_models_are_refused_with_the_reason(name: str) -> None:
    f, message = UNHEALTHY[name]
    start = images()
    with pytest.raises(InputError, match=message):
        check_health(f, start)
    with pytest.raises(InputError, match=message):
        attack(f, start, torch.zeros(2, 3), eps=1.0)
    assert not start.requires_grad


@pytest.mark.parametrize("name", ["detached", "numpy", "nan gradient", "rounds"])
def test_the_gradient_is_checked_only_if_it_is_needed(name: str) -> None:
    check_health(UNHEALTHY[name][0], images(), gradient=False)


def test_a_grey_start_does_not_hide_that_f_mixes_samples() -> None:
    with pytest.raises(InputError, match="f mixes the samples of a batch"):
        check_health(BatchStatistics(), torch.full((2, 3, 8, 8), 0.5))


def test_a_zero_gradient_at_the_start_alone_is_accepted() -> None:
    check_health(lambda x: torch.relu(x - 0.01).mean((2, 3)), torch.zeros(1, 3, 8, 8))


def test_a_model_with_fixed_batch_size_1_passes_with_one_image() -> None:
    def f(x: Tensor) -> Tensor:
        return mean(x.reshape(1, 3, 8, 8))

    check_health(f, images(1))
    with pytest.raises(InputError, match="check the input size, the batch size"):
        check_health(f, images(2))


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        ([[0.0]], TypeError, r"expected start as a tensor \(B, 3, H, W\), got list"),
        (
            torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
            TypeError,
            "got torch.uint8; convert with oodattack.core.pixels.dequantize",
        ),
        (torch.zeros(1, 3, 2, 2).half(), InputError, r"in 32 or 64 bits, got torch.float16.* give start.float\(\)"),
        (torch.zeros(1, 3, 2, 2).bfloat16(), InputError, "in 32 or 64 bits, got torch.bfloat16"),
        (torch.zeros(3, 2, 2), InputError, r"of shape \(B, 3, H, W\), got \(3, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2), InputError, r"got \(1, 1, 2, 2\)"),
        (torch.zeros(0, 3, 2, 2), InputError, r"got \(0, 3, 2, 2\)"),
        (torch.full((1, 3, 2, 2), math.nan), InputError, "finite pixels, got NaN or infinity"),
        (
            torch.full((1, 3, 2, 2), 200.0),
            InputError,
            r"in \[0, 1\], got 200 to 200; divide 8-bit pixels by 255",
        ),
        (
            torch.full((1, 3, 2, 2), -0.1),
            InputError,
            r"in \[0, 1\], got -0.1 to -0.1.*leave normalisation to f",
        ),
    ],
)
def test_pixels_are_checked(pixels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_pixels(pixels, "start")
    with pytest.raises(error, match=message):
        attack(mean, pixels, torch.zeros(1, 3), eps=1.0)


def test_0_and_1_are_valid_pixels() -> None:
    check_pixels(torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2), "start")


@pytest.mark.parametrize("error", [AssertionError("Wrong image height!"), KeyError("layer"), IndexError()])
def test_whatever_f_raises_is_reported_in_one_sentence(error: Exception) -> None:
    def f(_x: Tensor) -> Tensor:
        raise error

    reason = str(error) or "IndexError"
    with pytest.raises(InputError, match=f"f fails on one or two images of shape .*: {reason}; check the input size"):
        check_health(f, images(2))


def test_inference_mode_images_are_checked_too() -> None:
    with torch.inference_mode():
        x = images(2).clone()
    check_health(mean, x)
