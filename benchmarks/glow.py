"""A small Glow with its negative log-likelihood as the latent, K = 1 (Section II-C of the paper)."""

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from oodattack.images import open_images
from oodattack.storage.files import write_torch

SIDE = 32  # pixels
LEVELS, BLOCKS_PER_LEVEL, HIDDEN_CHANNELS = 3, 4, 64


class Glow(nn.Module):
    """Maps images (B, 3, 32, 32) in [0, 1] to their negative log-likelihoods (B,) as 8-bit images, in nats.

    The model of Kingma & Dhariwal (2018) as implemented by normflows, with 3 levels of 4 blocks.
    """

    input_size = (SIDE, SIDE)

    def __init__(self) -> None:
        super().__init__()
        import normflows as nf

        flows, bases, merges = [], [], []
        for level in range(LEVELS):
            channels = 3 * 2 ** (LEVELS + 1 - level)
            blocks = [nf.flows.GlowBlock(channels, HIDDEN_CHANNELS, use_lu=False) for _ in range(BLOCKS_PER_LEVEL)]
            flows.append([*blocks, nf.flows.Squeeze()])
            side = SIDE // 2 ** (LEVELS - level)
            if level > 0:  # half of the channels are factored out at this level
                merges.append(nf.flows.Merge())
            kept = channels // 2 if level > 0 else channels
            bases.append(nf.distributions.DiagGaussian((kept, side, side)))
        self.flow = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute -log p(x)."""
        density = self.flow.log_prob(x - 0.5, None)
        return cast(Tensor, x[0].numel() * math.log(256) - density)


def glow() -> nn.Module:
    """An untrained Glow, for `python:benchmarks.glow:glow,weights=FILE`."""
    return Glow()


def train_glow(images: Path, weights: Path, *, steps: int = 400, batch_size: int = 32) -> float:
    """Fit a Glow to 32x32 patches of images, downsampled by two, and write its weights.

    Returns:
        The mean bits per dimension over the last tenth of the steps.
    """
    source = open_images(images)
    halves = [nn.functional.avg_pool2d(source.read(i) / 255, 2) for i in range(len(source))]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Glow()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(steps):
            patches = torch.stack([_patch(halves) for _ in range(batch_size)])
            noisy = (255 * patches + torch.rand_like(patches)) / 256  # uniform dequantisation
            bits = model(noisy).mean() / (3 * SIDE**2 * math.log(2))
            optimizer.zero_grad()
            bits.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            losses.append(float(bits.detach()))
    write_torch(weights, model.state_dict())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _patch(images: list[Tensor]) -> Tensor:
    image = images[int(torch.randint(len(images), ()))]
    top, left = (int(torch.randint(side - SIDE + 1, ())) for side in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]
