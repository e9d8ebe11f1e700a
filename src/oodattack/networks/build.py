"""Build networks by name; the normalisation that all of them are trained with."""

import re

from torch import nn

from oodattack.core.errors import InputError
from oodattack.networks.bottleneck import Bottleneck
from oodattack.networks.glow import Glow
from oodattack.networks.resnet import CifarResNet
from oodattack.networks.score import ScoreNetwork, build_score_network

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def build_network(name: str, method: str, classes: int) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: resnet8, resnet14, resnet20, resnet32, ...
        method: "bottleneck" adds a `Bottleneck`.
        classes: number of logits.

    Raises:
        InputError: if the name is not one of these.

    >>> len(build_network("resnet20", "plain", 10).layer1)
    3
    """
    found = re.fullmatch(r"resnet(\d+)", name)
    depth = int(found[1]) if found else 0
    if depth < 8 or depth > 1202 or (depth - 2) % 6:
        raise InputError(f"expected network to be resnet8, resnet14, resnet20, ... (6n+2 layers), got {name!r}")
    network = CifarResNet((depth - 2) // 6, classes)
    return Bottleneck(network, classes) if method == "bottleneck" else network


def build_image_model(name: str, size: int) -> Glow | ScoreNetwork:
    """Build a flow or a score network with random weights.

    Args:
        name: see `build_glow` and `build_score_network`.
        size: side of the images, in pixels.

    Raises:
        InputError: if the name is of neither form, or does not fit the size.

    >>> type(build_image_model("glow-k1-l2-w8", 8)).__name__
    'Glow'
    """
    return build_score_network(name, size) if name.startswith("unet") else build_glow(name, size)


def build_glow(name: str, size: int) -> Glow:
    """Build a `Glow` with random weights.

    Args:
        name: glow-k4-l3-w64 for 4 steps in each of 3 levels, and networks with 64 hidden channels.
        size: side of the images, in pixels.

    Raises:
        InputError: if the name is not of this form, or does not fit the size.

    >>> build_glow("glow-k4-l3-w64", 32).latent_shapes
    [(6, 16, 16), (12, 8, 8), (48, 4, 4)]
    """
    found = re.fullmatch(r"glow-k(\d{1,4})-l(\d{1,2})-w(\d{1,4})", name)
    if not found:
        raise InputError(
            f"expected network to be glow-k4-l3-w64, glow-k16-l4-w256, ... (steps, levels, width), got {name!r}"
        )
    steps, levels, width = map(int, found.groups())
    return Glow(size, steps=steps, levels=levels, width=width)
