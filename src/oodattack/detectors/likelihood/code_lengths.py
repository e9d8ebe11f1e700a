"""Lengths of encoded images with a gradient."""

from typing import Any

import torch
from torch import Tensor

from oodattack.core.pixels import LEVELS, quantize
from oodattack.detectors.base import Loader
from oodattack.detectors.likelihood.codecs import codecs, lengths

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # candidates of the residual that costs one bit, in levels of an 8-bit pixel
SHARES = (0.0, 0.1, 0.3)  # of noise in the images that a surrogate is fitted to, so that it extends beyond photographs
MAX_FITTED = 200  # images
UNIT = 8.0  # bits of a byte


class CodeLengths:
    """True lengths of images under lossless codecs, with the gradient of a smooth surrogate.

    The surrogate of a codec is ``c + s * sum(log2(1 + |r| / b)) / 8`` over the residuals r of a linear prediction of
    every pixel, in levels: a soft count of their bits. Its gradient steers an attack; the length is the true one.

    Attributes:
        names: the codecs.

    >>> sizes, images = CodeLengths(), torch.rand(2, 3, 16, 16, requires_grad=True)
    >>> sizes(images).sum().backward()
    >>> sizes(images).shape[1] == len(sizes.names), bool((images.grad != 0).any())
    (True, True)
    """

    def __init__(self) -> None:
        self.names = tuple(codecs())
        self.width, self.slope, self.offset = (torch.full((len(self.names),), v) for v in (1.0, 1.0, 0.0))

    def __call__(self, images: Tensor) -> Tensor:
        """The lengths (B, C) in bytes, of images (B, 3, H, W) in [0, 1] rounded to 8 bits."""
        true = lengths(quantize(images.detach())).to(images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return true
        estimate = self.estimate(images)
        return true + (estimate - estimate.detach())

    def estimate(self, images: Tensor) -> Tensor:
        """The surrogates (B, C) in bytes."""
        bits = soft_bits(images, self.width.to(images))
        return self.offset.to(images) + self.slope.to(images) * bits / UNIT

    def fit(self, loader: Loader) -> None:
        """Fit the surrogates to the true lengths of some images, and of blends of these with noise."""
        photographs = torch.cat([images for images, _ in loader])[:MAX_FITTED].cpu()
        noise = torch.rand(photographs.shape, generator=torch.Generator().manual_seed(0))
        images = torch.cat([(1 - share) * photographs + share * noise for share in SHARES])
        images = quantize(images).float() / LEVELS
        true = lengths(quantize(images))
        errors, slopes, offsets = [], [], []
        for width in WIDTHS:
            bits = soft_bits(images, torch.tensor([width]))[:, 0].double() / UNIT
            design = torch.stack([bits, torch.ones_like(bits)], dim=1)
            found = torch.linalg.lstsq(design, true).solution
            errors.append((design @ found - true).square().sum(0))
            slopes.append(found[0])
            offsets.append(found[1])
        best = torch.stack(errors).argmin(0)
        chosen = torch.arange(len(self.names))
        self.width = torch.tensor(WIDTHS)[best]
        self.slope, self.offset = (torch.stack(v)[best, chosen].float() for v in (slopes, offsets))

    def state_dict(self) -> dict[str, Any]:
        """The fitted surrogates."""
        return {"names": list(self.names), "width": self.width, "slope": self.slope, "offset": self.offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.width, self.slope, self.offset = state["width"], state["slope"], state["offset"]


def soft_bits(images: Tensor, widths: Tensor) -> Tensor:
    """Soft counts (B, W) of the bits of prediction residuals, for widths (W,) in levels.

    Green is predicted from the pixels to the left and above, by their sum minus the pixel between them; red and blue as
    well, after green is subtracted.

    >>> flat, noisy = torch.full((1, 3, 8, 8), 0.5), torch.rand(1, 3, 8, 8)
    >>> bool(soft_bits(flat, torch.ones(1)) < soft_bits(noisy, torch.ones(1)))
    True
    """
    red, green, blue = (LEVELS * images).unbind(1)
    planes = torch.stack([red - green, green, blue - green], dim=1)
    rows = planes[:, :, :, 1:] - planes[:, :, :, :-1]
    residuals = rows[:, :, 1:] - rows[:, :, :-1]
    size = residuals.abs().flatten(1)
    return torch.stack([(1 + size / width).log2().sum(1) for width in widths], dim=1)
