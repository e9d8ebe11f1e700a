"""Networks for the benchmarks that no library provides by name: `python:benchmarks.networks:vit_tiny`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.networks import CifarResNet


def resnet32() -> nn.Module:
    """CIFAR-10 ResNet-32, with random weights."""
    return CifarResNet(blocks=5)


def vit_tiny() -> nn.Module:
    """ViT-Tiny from timm for 64x64 pixels in patches of 8, with reproducible random weights."""
    return _from_timm("vit_tiny_patch16_224", img_size=64, patch_size=8)


def convnext_atto() -> nn.Module:
    """ConvNeXt-Atto from timm at 64x64 pixels, with reproducible random weights."""
    return _from_timm("convnext_atto")


def provable() -> nn.Module:
    """The small network of Wong et al. (2018), "Scaling provable adversarial defenses", for CIFAR-10."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


class ResNetSmall(nn.Module):
    """The pre-activation ResNet of Hein et al. (CVPR 2019), "Why ReLU networks yield high-confidence predictions"."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = [(16, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
        self.units = nn.ModuleList(_Unit(before, after, first=i % 3 == 0) for i, (before, after) in enumerate(widths))
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, 10) of images (B, 3, 32, 32)."""
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        logits: Tensor = self.fc(F.relu(self.bn(x)).mean((2, 3)))
        return logits


class _Unit(nn.Module):
    """TensorFlow's SAME padding; the shortcut of a stage's first unit starts after the activation."""

    def __init__(self, before: int, after: int, *, first: bool) -> None:
        super().__init__()
        self.grows, self.first = after - before, first
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(
            before, after, 3, stride=2 if self.grows else 1, padding=0 if self.grows else 1, bias=False
        )
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        shortcut = h if self.first else x
        if self.grows:
            half = self.grows // 2
            shortcut = F.pad(F.avg_pool2d(shortcut, 2), (0, 0, 0, 0, half, half))
            h = F.pad(h, (0, 1, 0, 1))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(h)))) + shortcut
        return out


def _from_timm(name: str, **options: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: Any = timm.create_model(name, pretrained=False, **options)
    model.input_size = (64, 64)
    return model  # type: ignore[no-any-return]
