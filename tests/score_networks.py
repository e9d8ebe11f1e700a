"""A small score network with random weights, and random images for it."""

import torch
from torch import Tensor

from oodattack.networks.score import ScoreNetwork


def images(count: int, seed: int, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_network(size: int = 8) -> ScoreNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = ScoreNetwork(size, width=8).eval()
        with torch.no_grad():
            for parameter in found.parameters():  # MONAI's last layers begin at zero
                parameter.add_(0.02 * torch.randn_like(parameter))
    return found
