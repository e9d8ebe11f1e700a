"""What models of images are trained to minimise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oodattack.networks import Glow
from oodattack.networks.score import ScoreNetwork


@dataclass(frozen=True)
class ImageObjective:
    """A loss to train a model of images with.

    Attributes:
        loss: maps a model and images (B, 3, H, W) in [0, 1] to losses (B,); random numbers come from torch's global
            generator.
        unit: the unit of a loss, in words.
    """

    loss: Callable[[nn.Module, Tensor], Tensor]
    unit: str


def bits_per_dim(model: nn.Module, images: Tensor) -> Tensor:
    """The negative log-likelihoods (B,) of dequantised 8-bit images, in bits per dimension.

    Their mean over uniform noise is an upper bound of the negative log-probability (Theis et al. 2016, Section 3.1).
    """
    assert isinstance(model, Glow)  # noqa: S101 -- the settings name a Glow
    return model.bits_per_dim(images, torch.rand_like(images))


def denoising(model: nn.Module, images: Tensor) -> Tensor:
    """The weighted squared errors (B,) of denoised images; see `ScoreNetwork.loss`."""
    assert isinstance(model, ScoreNetwork)  # noqa: S101 -- the settings name a score network
    return model.loss(images)


LIKELIHOOD = ImageObjective(bits_per_dim, "bits per dimension")
SCORE = ImageObjective(denoising, "weighted squared error")
