"""Networks for `benchmarks.families` that no library provides by name: `python:benchmarks.networks:vit_tiny`."""

from typing import Any

import torch
from torch import nn

from oodattack.networks import CifarResNet


def resnet32() -> nn.Module:
    """CIFAR-10 ResNet-32, with random weights."""
    return CifarResNet(blocks=5)


def vit_tiny() -> nn.Module:
    """ViT-Tiny from timm for 64x64 pixels in patches of 8, with reproducible random weights."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, patch_size=8)
    model.input_size = (64, 64)
    return model  # type: ignore[no-any-return]
