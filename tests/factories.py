"""Small networks for the tests, built by name: `python:tests.factories:tiny`."""

import io
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.detectors import Classifier, Loader
from oodattack.networks import CifarResNet


def resnet20() -> nn.Module:
    """CIFAR-10 ResNet-20, with random weights."""
    return CifarResNet(blocks=3)


def small() -> nn.Module:
    """A ResNet-8 for images of 16x16; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = CifarResNet(blocks=1)
    net.input_size = (16, 16)
    return net


class _JpegResNet(CifarResNet):
    """The same behind what a camera or an upload does: 8 bits, JPEG; no gradient passes through."""

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
    """A convolution and a linear layer, 32x32 to 128 to 5; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _Tiny()


class _Dark(nn.Module):
    """z is one number: how bright the image is beyond a quarter."""

    input_size = (32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.mean((1, 2, 3)) - 0.25)[:, None]


def dark() -> nn.Module:
    """A network whose latent is zero for dark images."""
    return _Dark()


class Norm:
    """A user's own detector: a small norm of z is out-of-distribution."""

    def __init__(self, classifier: Classifier) -> None:
        self.z = classifier.features

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return -self.reads(images).square().sum(1)

    def reads(self, images: Tensor) -> Tensor:
        return self.z(images)
