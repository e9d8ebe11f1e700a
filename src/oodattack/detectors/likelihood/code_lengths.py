"""Lengths of encoded images with a gradient."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import LEVELS, quantize
from oodattack.detectors.base import Loader
from oodattack.detectors.likelihood.codecs import codecs, lengths
from oodattack.detectors.likelihood.wavelet import soft_bits

WIDTHS = (0.0625, 0.125, 0.25, 0.5)  # candidates of the coefficient that costs one bit, in levels of an 8-bit pixel
SHARES = (0.02, 0.1, 0.3, 1.0)  # of noise in the images that a surrogate is fitted to
STEERING_WIDTH = 8.0  # the same for gradients: narrow widths push coefficients back and forth across zero
MAX_FITTED = 100  # images
BYTE = 8  # bits


class CodeLengths:
    """True lengths of images under lossless codecs, with the gradient of a smooth surrogate.

    The surrogate of a codec is a weighted sum of the two numbers of `soft_bits`, plus a constant. Its gradient steers
    an attack; the length is always the true one. Between images that differ in contrast and detail the surrogates
    rank lengths almost as the codecs do; repetitions and unused levels, which codecs exploit as well, they do not see.

    Attributes:
        names: the codecs.

    >>> sizes, images = CodeLengths(), torch.rand(2, 3, 16, 16, requires_grad=True)
    >>> sizes(images).sum().backward()
    >>> sizes(images).shape[1] == len(sizes.names), bool((images.grad != 0).any())
    (True, True)
    """

    def __init__(self) -> None:
        self.names = tuple(codecs())
        count = len(self.names)
        # Close to what fits give: most codecs transform the colours, and PNG does not.
        rgb = torch.tensor([float(name == "PNG") for name in self.names])
        self.widths = torch.full((count,), 0.125)
        self.weights = torch.stack([rgb, 1 - rgb], dim=1)
        self.constants = torch.full((count,), 100.0)

    def __call__(self, images: Tensor) -> Tensor:
        """The lengths (B, C) in bytes, of images (B, 3, H, W) in [0, 1] rounded to 8 bits.

        The gradient is that of the surrogate with a width of `STEERING_WIDTH`, at the pixels before they are rounded.
        """
        true = lengths(quantize(images.detach())).to(images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return true
        steering = soft_bits(images, STEERING_WIDTH) @ self.weights.to(images).T / BYTE
        return true + (steering - steering.detach())

    def estimate(self, images: Tensor) -> Tensor:
        """The surrogates (B, C) in bytes, of images (B, 3, H, W) in [0, 1] that need not be on the 8-bit grid."""
        bits = {width: soft_bits(images, width) / BYTE for width in set(self.widths.tolist())}
        columns = [bits[w] @ weight for w, weight in zip(self.widths.tolist(), self.weights.to(images), strict=True)]
        return torch.stack(columns, dim=1) + self.constants.to(images)

    def fit(self, loader: Loader) -> None:
        """Fit the surrogates by least squares to the true lengths of some images and of variants of these.

        The variants are blends with noise, in colour and in grey, so that the surrogates extend beyond photographs.
        All weights are at least zero: more bits never mean a shorter file.
        """
        levels = _variants(_first(loader, MAX_FITTED))
        true = lengths(levels).numpy()
        images = levels.float() / LEVELS
        errors, found = [], []
        for width in WIDTHS:
            bits = soft_bits(images, width).double().numpy() / BYTE
            design = np.column_stack([bits, np.ones(len(bits))])
            solutions = [nnls(design, column) for column in true.T]
            found.append([solution for solution, _ in solutions])
            errors.append([error for _, error in solutions])
        best = np.argmin(errors, axis=0)
        chosen = torch.tensor(np.array([found[w][codec] for codec, w in enumerate(best)]), dtype=torch.float32)
        self.widths = torch.tensor(WIDTHS)[torch.from_numpy(best)]
        self.weights, self.constants = chosen[:, :2], chosen[:, 2]

    def state_dict(self) -> dict[str, Any]:
        """The fitted surrogates."""
        fitted = {"widths": self.widths, "weights": self.weights, "constants": self.constants}
        return {"names": list(self.names)} | fitted

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            InputError: if it was fitted to other codecs than are installed.
        """
        if tuple(state["names"]) != self.names:
            raise InputError(
                f"expected lengths fitted to {', '.join(self.names)}, got {', '.join(state['names'])}; fit them again,"
                " or install the same codecs: pip install 'oodattack[codecs]' adds JPEG XL"
            )
        self.widths, self.weights, self.constants = state["widths"], state["weights"], state["constants"]


def _first(loader: Loader, count: int) -> Tensor:
    """The first images of a loader, on the CPU."""
    batches = iter(loader)
    images = next(batches)[0]
    for more, _ in batches:
        if len(images) >= count:
            break
        images = torch.cat([images, more])
    return images[:count].cpu().float()


def _variants(images: Tensor) -> Tensor:
    """The images, grey copies, and blends of both with noise: (5 B, 3, H, W) uint8."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    share = torch.tensor(SHARES).repeat(len(images))[: len(images)].view(-1, 1, 1, 1)
    grey = images.mean(1, keepdim=True).expand_as(images)
    blends = [torch.lerp(images, noise, share), torch.lerp(grey, noise, share), torch.lerp(grey, noise[:, :1], share)]
    return quantize(torch.cat([images, grey, *blends]))
