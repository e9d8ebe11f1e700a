"""Score networks against closed forms: where their UNet is constant, everything is known of Gaussian pixels."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.detectors import BareEncoder
from oodattack.detectors.likelihood import ImageModels
from oodattack.detectors.likelihood.score_based import MSMA, NOISE_LEVELS, OneStep
from oodattack.encoders import Encoder
from oodattack.networks import Glow
from oodattack.networks.score import SIGMA_DATA, ScoreNetwork
from tests.score_networks import images, random_network


def subject(size: int) -> BareEncoder:
    return BareEncoder(Encoder(nn.Flatten(), name="mine", input_size=(size, size), layer="output"))


def constant_network(value: float, size: int = 8) -> ScoreNetwork:
    """A network whose UNet returns the same value everywhere; with 0, the denoiser of N(0.5, SIGMA_DATA^2) pixels."""
    found = random_network(size)
    with torch.no_grad():
        for parameter in found.unet.out.parameters():
            parameter.zero_()
        list(found.unet.out.parameters())[-1].fill_(value)  # the bias of the last convolution
    return found


def test_the_unet_is_scaled_as_in_table_1_of_karras() -> None:
    """c_out: how far the denoised image moves if the UNet returns 1 instead of 0."""
    x, sigma = images(4, 1), torch.tensor([0.01, 0.1, 0.4, 1.0])
    moved = constant_network(1).denoise(x, sigma) - constant_network(0).denoise(x, sigma)
    scale = sigma * SIGMA_DATA / (sigma.square() + SIGMA_DATA**2).sqrt()
    torch.testing.assert_close(moved, scale[:, None, None, None].expand_as(x), rtol=1e-4, atol=1e-5)


def test_the_unet_gets_unit_variance_and_times_from_0_to_1000() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    network = random_network()
    network.unet.register_forward_pre_hook(lambda _, given: seen.append(given))
    clean, noise = (torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    for sigma in (0.01, 0.1, 1.0):
        with torch.no_grad():
            network.denoise(0.5 + SIGMA_DATA * clean + sigma * noise, torch.full((200,), sigma))
    for entered, _ in seen:
        assert float(entered.mean()) == pytest.approx(0, abs=0.05)
        assert float(entered.std()) == pytest.approx(1, abs=0.05)
    times = torch.stack([time for _, time in seen])
    expected = torch.tensor([[0.0], [500.0], [1000.0]]).expand_as(times)
    torch.testing.assert_close(times, expected, rtol=1e-4, atol=1e-2)


def test_an_image_without_noise_is_left_as_it_is() -> None:
    x = images(3, 4)
    torch.testing.assert_close(random_network().denoise(x, torch.full((3,), 1e-6)), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spread", [0.0, SIGMA_DATA])
def test_the_loss_is_that_of_gaussian_pixels(spread: float) -> None:
    """Where D is optimal (pixels with SIGMA_DATA), the weighted loss is 1 at every noise level.

    For mid-grey images it is s^2 / (s^2 + sigma^2), with s = SIGMA_DATA; the mean is over log sigma from 0.01 to 1.
    """
    count, s2 = 6000, SIGMA_DATA**2
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        loss = constant_network(0, 4).loss(0.5 + spread * torch.randn(count, 3, 4, 4))
    grey = (math.log(1 / (1 + s2)) - math.log(1e-4 / (1e-4 + s2))) / 2 / math.log(100)
    assert loss.shape == (count,)
    assert float(loss.mean()) == pytest.approx(1 if spread else grey, abs=0.03)


def test_samples_of_gaussian_pixels_follow_their_flow() -> None:
    """The probability flow scales N(0.5, s^2 + sigma^2) to N(0.5, s^2); 20 Euler steps are 6 % short of it."""
    noise = torch.randn((5, 3, 8, 8), generator=torch.Generator().manual_seed(6))
    exact = SIGMA_DATA / math.sqrt(SIGMA_DATA**2 + 1) * noise
    sampled = constant_network(0).sample(5, torch.Generator().manual_seed(6))
    inside = exact.abs() < 0.45  # not clamped
    ratio = (sampled - 0.5)[inside] / exact[inside]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.95), rtol=0, atol=0.05)
    assert 0 <= float(sampled.min()) <= float(sampled.max()) <= 1


def test_weights_survive_a_file_that_cannot_execute_code() -> None:
    network, other, x = random_network(), ScoreNetwork(8, width=8).eval(), images(2, 7)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(x), network(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), network(x))


def test_one_step_is_the_mean_z_score_of_the_errors() -> None:
    detector = OneStep(ImageModels(score_network=constant_network(0)), subject(8))
    train, x = images(12, 8), images(4, 9)
    detector.fit([(train[:7], torch.zeros(7)), (train[7:], torch.zeros(5))])

    def errors(pixels: Tensor) -> np.ndarray:
        columns = []
        for sigma, noise in zip(NOISE_LEVELS, detector.noise.double().numpy(), strict=True):
            clean = pixels.double().numpy()
            shrink = SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2)
            found = 0.5 + shrink * (clean + sigma * noise - 0.5)
            columns.append(np.log(((found - clean) ** 2).mean((1, 2, 3))))
        return np.stack(columns, axis=1)

    fitted = errors(train)
    expected = ((errors(x) - fitted.mean(0)) / fitted.std(0, ddof=1)).mean(1)
    np.testing.assert_allclose(detector.score(x).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert float(detector.noise.std()) == pytest.approx(1, abs=0.15)


def test_one_step_needs_two_images() -> None:
    detector = OneStep(ImageModels(score_network=random_network()), subject(8))
    with pytest.raises(InputError, match="expected at least 2 training images, got 1"):
        detector.fit([(images(1, 10), torch.zeros(1))])


@pytest.mark.parametrize("kind", [MSMA, OneStep])
def test_a_flow_of_another_size_does_not_matter(kind: type[MSMA | OneStep]) -> None:
    flow = Glow(16, steps=1, levels=2, width=4)
    detector = kind(ImageModels(flows=(flow,), score_network=random_network()), subject(8))
    assert detector.reads(images(2, 11)).shape == (2, len(detector.parts))
    with pytest.raises(InputError, match="it needs a score network"):
        kind(ImageModels(flows=(flow,)), subject(8))


def test_the_package_imports_without_monai() -> None:
    """In a process of its own, which has imported nothing yet."""
    script = "import sys; sys.modules['monai'] = sys.modules['einops'] = None; import oodattack.detectors.likelihood"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
