"""The whole model: from images to latents and likelihoods, and back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.core.errors import InputError
from oodattack.networks.glow.flow import Flow, glow_steps
from oodattack.networks.glow.prior import SplitPrior, TopPrior, log_normal

VALUES = 256  # of an 8-bit pixel


@dataclass(frozen=True)
class Encoding:
    """Latents of images, and the parts of their log-likelihoods, in nats.

    Attributes:
        z: the latents of each level, (B, C, H, W); together, they have the dimension of the images.
        log_p: their log-densities, (B, L); those of a level are conditional on the levels after it.
        log_dets: log-determinants of the layers of each level, (B, L); the first includes that of the scaling of
            pixels.
    """

    z: tuple[Tensor, ...]
    log_p: Tensor
    log_dets: Tensor

    @property
    def log_det(self) -> Tensor:
        """Logarithm of the absolute determinant of the Jacobian of z with respect to pixels in [0, 255], (B,)."""
        return self.log_dets.sum(1)

    @property
    def log_prob(self) -> Tensor:
        """Log-likelihoods of the 8-bit images, (B,)."""
        return (self.log_p + self.log_dets).sum(1)


class Glow(nn.Module):
    """Maps images (B, C, size, size) in [0, 1] to their negative log-likelihoods (B,) as 8-bit images, in nats.

    Each level squeezes squares of 2x2 pixels into channels and applies ``steps`` steps of activation normalisation,
    invertible 1x1 convolution and affine coupling. After each level but the last, half of the channels leave the flow.

    The density is that of ``(255 x + u) / 256 - 0.5``. By default u = 0.5, the middle of the interval that stands for a
    pixel value. The mean over u ~ U[0, 1) is an upper bound of the negative log-probability of the 8-bit image (Theis
    et al. 2016), and the loss to train with.

    Float32 is accurate enough: the likelihoods differ from those of float64 by less than 1e-5 of their value.

    Args:
        size: side of the images, in pixels; a multiple of ``2 ** levels``.
        steps: K, the number of steps of each level.
        levels: L.
        width: number of hidden channels of the networks of the couplings.
        channels: number of channels of the images.

    Attributes:
        latent_shapes: the shape (C, H, W) of the latents of each level.

    Raises:
        InputError: if a number is below 1, or the size is not a multiple of ``2 ** levels``.

    >>> model = Glow(8, steps=1, levels=2, width=8)
    >>> x = torch.rand(16, 3, 8, 8)
    >>> model(x, torch.rand_like(x)).shape  # in training mode, this initialises the activation normalisation
    torch.Size([16])
    >>> [tuple(z.shape) for z in model.eval().encode(x).z]
    [(16, 6, 4, 4), (16, 24, 2, 2)]
    """

    def __init__(self, size: int, *, steps: int, levels: int, width: int, channels: int = 3) -> None:
        super().__init__()
        if min(size, steps, levels, width, channels) < 1 or size % 2**levels:
            raise InputError(
                "expected steps, levels, width and channels to be at least 1, and size a multiple of 2^levels, got"
                f" {steps=}, {levels=}, {width=}, {channels=}, {size=}; choose another size, or fewer levels"
            )
        self.input_size = (size, size)
        self.image_shape = (channels, size, size)
        self.latent_shapes: list[tuple[int, int, int]] = []
        self.flows, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels, size = 4 * channels, size // 2
            self.flows.append(glow_steps(channels, steps, width))
            if level < levels - 1:
                channels //= 2
                self.priors.append(SplitPrior(channels))
            else:
                self.priors.append(TopPrior(channels))
            self.latent_shapes.append((channels, size, size))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute the negative log-likelihoods (B,) in nats; see `encode`."""
        return -self.log_prob(x, noise)

    def log_prob(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute the log-likelihoods (B,) in nats; see `encode`."""
        return self.encode(x, noise).log_prob

    def bits_per_dim(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute the negative log-likelihoods (B,) in bits, divided by C * size * size; see `encode`.

        The uniform distribution has 8.
        """
        return -self.log_prob(x, noise) / (math.prod(self.image_shape) * math.log(2))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Encoding:
        """Compute latents, log-densities and log-determinants of images.

        Args:
            x: (B, C, size, size), floating-point pixels in [0, 1].
            noise: u, in [0, 1), of the shape of the images or of one of them; 0.5 if omitted.

        Raises:
            InputError: if the images are of another shape or type, or in evaluation mode if the model was not trained.
        """
        if x.shape[1:] != self.image_shape or not x.is_floating_point():
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(
                f"expected floating-point images (B, {expected}), got {x.dtype} {tuple(x.shape)}; resize them first"
            )
        h = (255 * x + (0.5 if noise is None else noise)) / VALUES - 0.5
        scaling = -math.prod(self.image_shape) * math.log(VALUES)
        z, log_p, log_dets = [], [], []
        for level, (flow, prior) in enumerate(zip(self.flows, self.priors, strict=True)):
            h, log_det = flow(F.pixel_unshuffle(h, 2))
            if level < len(self.flows) - 1:
                h, leaves = h.chunk(2, dim=1)
                mean, log_std = prior(h)
            else:
                leaves = h
                mean, log_std = prior()
            z.append(leaves)
            log_p.append(log_normal(leaves, mean, log_std))
            log_dets.append(log_det + (scaling if level == 0 else 0))
        return Encoding(tuple(z), torch.stack(log_p, dim=1), torch.stack(log_dets, dim=1))

    def decode(self, z: Sequence[Tensor]) -> Tensor:
        """Compute the images that `encode`, without noise, maps to z; their pixels may lie outside [0, 1].

        Raises:
            InputError: if the latents are of another shape, or the model was not trained.
        """
        shapes = [tuple(latent.shape[1:]) for latent in z]
        if shapes != self.latent_shapes:
            raise InputError(
                f"expected latents with the shapes {self.latent_shapes}, got {shapes}; pass the z of `encode`"
            )
        return self._invert(lambda level, _mean, _log_std: z[level])

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draw images (count, C, size, size) in [0, 1].

        Args:
            count: number of images.
            generator: source of random numbers. One on the CPU yields the same numbers for a model on any device.
            temperature: factor of the standard deviations of the latents.

        Raises:
            InputError: if the model was not trained.
        """

        def draw(level: int, mean: Tensor, log_std: Tensor) -> Tensor:
            shape = (count, *self.latent_shapes[level])
            noise = torch.randn(shape, generator=generator, device=generator.device)
            return mean + temperature * log_std.exp() * noise.to(mean)

        return self._invert(draw).clamp(0, 1)

    def _invert(self, latents: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute images from latents, which may depend on their level, mean and logarithmic standard deviation."""
        top = len(self.flows) - 1
        h = latents(top, *self.priors[top]())
        for level in range(top, -1, -1):
            if level < top:
                h = torch.cat([h, latents(level, *self.priors[level](h))], dim=1)
            h = F.pixel_shuffle(cast(Flow, self.flows[level]).inverse(h), 2)
        return ((h + 0.5) * VALUES - 0.5) / 255
