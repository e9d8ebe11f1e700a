"""Small networks for the tests, built by name: `python:tests.factories:tiny`."""

import io
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.detectors import Loader, Subject
from oodattack.networks import CifarResNet


def resnet20() -> nn.Module:
    """CIFAR-10 ResNet-20, with random weights."""
    return CifarResNet(blocks=3)


def small() -> nn.Module:
    """A ResNet-8 for 16x16 images, with reproducible weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = CifarResNet(blocks=1)
    net.input_size = (16, 16)
    return net


class _JpegResNet(CifarResNet):
    """The same network behind 8-bit rounding and JPEG, as applied by cameras and uploads; not differentiable."""

    def forward(self, x: Tensor) -> Tensor:
        decoded = []
        for image in (x.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=90)
            decoded.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
        pixels = torch.stack(decoded).to(x) / 255
        mean, std = pixels.new_tensor([0.485, 0.456, 0.406]), pixels.new_tensor([0.229, 0.224, 0.225])
        return super().forward((pixels - mean[:, None, None]) / std[:, None, None])


def jpeg_resnet20() -> nn.Module:
    """CIFAR-10 ResNet-20 behind JPEG compression, with its normalisation, random weights."""
    return _JpegResNet(blocks=3)


class _Tiny(nn.Module):
    input_size = (32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(x, 4).flatten(1)))


def tiny() -> nn.Module:
    """A convolution and a linear layer, 32x32 to 128 to 5, with reproducible weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _Tiny()


class _Dark(nn.Module):
    """z is one number: by how much the mean pixel exceeds one quarter, or 0."""

    input_size = (32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.mean((1, 2, 3)) - 0.25)[:, None]


def dark() -> nn.Module:
    """A network whose latent is zero for dark images."""
    return _Dark()


class Norm:
    """A user's detector without a base class: images whose z has a small norm are out-of-distribution."""

    def __init__(self, subject: Subject) -> None:
        self.z = subject.features

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return -self.reads(images).square().sum(1)

    def reads(self, images: Tensor) -> Tensor:
        return self.z(images)


class _Density(nn.Module):
    """A Gaussian over the means of 4x4 patches: a model of images with its own score."""

    input_size = (16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.1, 0.3, 48))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (F.avg_pool2d(x, 4).flatten(1) - 0.5) / self.scale
        return z, -self.scale.log().sum().expand(len(x))

    def reads(self, x: Tensor) -> Tensor:
        """Negative log-likelihood in nats of the patches of each channel, (B, 3), up to a constant."""
        z, log_determinant = self(x)
        return cast(Tensor, (z.square() / 2).view(-1, 3, 16).sum(2) - log_determinant[:, None] / 3)

    def judge(self, reads: Tensor) -> Tensor:
        """The negative log-likelihood of the image, (B,)."""
        return reads.sum(1)


def density() -> nn.Module:
    """A model of 16x16 images with its own score."""
    return _Density()


def halve() -> nn.Module:
    """A pipeline with a gradient: pixels are averaged in squares of 2x2."""
    return nn.AvgPool2d(2)


def halve_file() -> Callable[[Image.Image], Image.Image]:
    """The same as a pipeline without a gradient."""
    return lambda image: image.reduce(2)


def standardise() -> nn.Module:
    """A pipeline that normalises, which is the encoder's task."""
    return nn.InstanceNorm2d(3)


def classify_file() -> Callable[[Image.Image], str]:
    """A pipeline that returns no image."""
    return lambda _image: "cat"
