"""A small score network: the gradient of the log-density of noisy images, at any noise level.

The UNet is MONAI's; the preconditioning and the loss are those of Karras et al. 2022 ("EDM", Table 1).
"""

import math
import re
from itertools import pairwise

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError

SIGMAS = tuple(10 ** (-2 * level / 9) for level in range(10))  # from 1 to 0.01, as in MSMA (Mahmood et al. 2021)
SIGMA_DATA = 0.25  # standard deviation of the pixels of photographs, in [0, 1]
MIDDLE = 0.5
SAMPLING_STEPS = 20
TIMES = 1000.0  # the range of time steps that the embedding of the UNet is made for


class ScoreNetwork(nn.Module):
    """Denoises images (B, 3, size, size) in [0, 1], to which Gaussian noise with standard deviation sigma was added.

    sigma is in [0.01, 1], in units of pixels in [0, 1].

    Args:
        size: side of the images, in pixels; a multiple of 4.
        width: number of channels at full resolution, a multiple of 8; there are twice as many below.

    Raises:
        InputError: for another size or width, or without the packages monai and einops.

    >>> network = ScoreNetwork(8, width=8)
    >>> x, sigma = torch.rand(2, 3, 8, 8), torch.tensor([0.01, 1.0])
    >>> network.denoise(x, sigma).shape, network(x).shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 10]))
    """

    def __init__(self, size: int, *, width: int) -> None:
        super().__init__()
        if size < 4 or size % 4 or width < 8 or width % 8:
            raise InputError(f"expected a size that is a multiple of 4, and a width of 8, got {size=}, {width=}")
        try:
            import einops  # noqa: F401 -- MONAI's UNet needs it, but only says so when it is built
            from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
        except ImportError as error:
            raise InputError(
                "a score network needs the packages monai and einops: pip install 'oodattack[diffusion]'"
            ) from error
        self.input_size = (size, size)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=3,
            channels=(width, 2 * width, 2 * width),
            attention_levels=(False, False, False),
            num_res_blocks=1,
            norm_num_groups=8,
            num_head_channels=2 * width,  # of the middle block, which always has attention
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the norms (B, 10) of the scores at the noise levels `SIGMAS`, each times its sigma.

        No noise is added to the images (Mahmood et al. 2021, Section 3).
        """
        norms = []
        for sigma in SIGMAS:
            noise = sigma * self.score(x, torch.full((len(x),), sigma, device=x.device))
            norms.append(noise.flatten(1).norm(dim=1))
        return torch.stack(norms, dim=1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate the images without their noise.

        Args:
            x: (B, 3, size, size) noisy images; pixels may lie outside [0, 1].
            sigma: (B,) standard deviations of the noise.
        """
        s = sigma[:, None, None, None]
        scale = (s.square() + SIGMA_DATA**2).sqrt()
        time = TIMES * (1 + sigma.log() / math.log(100))  # 0 for the least sigma, TIMES for the largest
        centred = x - MIDDLE
        skipped = (SIGMA_DATA / scale).square() * centred
        estimate: Tensor = MIDDLE + skipped + SIGMA_DATA * s / scale * self.unet(centred / scale, time)
        return estimate

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of the log-density of noisy images, (B, 3, size, size); arguments as in `denoise`."""
        return (self.denoise(x, sigma) - x) / sigma.square()[:, None, None, None]

    def loss(self, images: Tensor) -> Tensor:
        """The mean squared errors (B,) of denoised images, weighted so that all noise levels count alike.

        log sigma is uniform. Random numbers come from torch's global generator.
        """
        sigma = 10 ** (-2 * torch.rand(len(images), device=images.device))
        s = sigma[:, None, None, None]
        found = self.denoise(images + s * torch.randn_like(images), sigma)
        weight = (sigma.square() + SIGMA_DATA**2) / (SIGMA_DATA * sigma).square()
        return weight * (found - images).square().mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw images (count, 3, size, size) in [0, 1] by Euler steps from sigma = 1 downwards (Karras et al. 2022).

        The samples show the textures that the network knows, not the distribution of the images: noise with sigma = 1
        around mid-grey does not hide the mean colour and the coarse shapes of an image, so all samples begin, and
        remain, near mid-grey. A faithful sampler would begin at a sigma far above those in training.

        Args:
            count: number of images.
            generator: source of random numbers on the CPU.
        """
        device = next(self.parameters()).device
        x = MIDDLE + torch.randn((count, 3, *self.input_size), generator=generator).to(device)
        levels = [*torch.logspace(0, -2, SAMPLING_STEPS).tolist(), 0.0]
        for sigma, after in pairwise(levels):
            denoised = self.denoise(x, torch.full((count,), sigma, device=device))
            x = denoised + after / sigma * (x - denoised)
        return x.clamp(0, 1)


def build_score_network(name: str, size: int) -> ScoreNetwork:
    """Build a `ScoreNetwork` with random weights.

    Args:
        name: unet-w32 for 32 channels at full resolution.
        size: side of the images, in pixels.

    Raises:
        InputError: if the name is not of this form, or does not fit the size.

    >>> build_score_network("unet-w8", 8).input_size
    (8, 8)
    """
    found = re.fullmatch(r"unet-w(\d{1,4})", name)
    if not found:
        raise InputError(f"expected network to be unet-w32, unet-w64, ... (width, a multiple of 8), got {name!r}")
    return ScoreNetwork(size, width=int(found[1]))
