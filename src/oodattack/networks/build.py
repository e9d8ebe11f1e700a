"""Build networks by name; the normalisation that all of them are trained with."""

import re

from torch import nn

from oodattack.core.errors import InputError
from oodattack.networks.bottleneck import Bottleneck
from oodattack.networks.resnet import CifarResNet

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
