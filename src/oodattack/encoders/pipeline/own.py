"""The user's own pipelines."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize, quantize
from oodattack.encoders.pipeline.base import Pipeline
from oodattack.images.rgb import to_tensor

EXPECTED = "expected the pipeline {} to return {}, got {}; leave normalisation to the encoder (mean=, std=)"


class OwnModule(Pipeline):
    """A module that maps images (B, 3, H, W) in [0, 1] to (B, 3, h, w) in [0, 1].

    Args:
        module: the module. If autograd can differentiate it, its gradient is used.
        name: the string that names it.

    >>> OwnModule(nn.AvgPool2d(2), "python:torch.nn:AvgPool2d")(torch.ones(1, 3, 4, 4)).shape
    torch.Size([1, 3, 2, 2])
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module.eval().requires_grad_(False), name

    def forward(self, x: Tensor) -> Tensor:
        """See `Pipeline`.

        Raises:
            InputError: if the module returns anything but such images.
        """
        return _checked(self.module(x), self.name, len(x), batch=True)


class OwnFunction(Pipeline):
    """A function of a Pillow image (RGB) that returns a Pillow image, or a tensor (3, h, w) in [0, 1].

    It has no gradient.

    Args:
        function: the function, called with one image after the other.
        name: the string that names it.

    >>> OwnFunction(lambda image: image.rotate(90), "python:mine:rotate")(torch.ones(1, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, function: Callable[[Image.Image], object], name: str) -> None:
        super().__init__()
        self.function, self.name = function, name

    def forward(self, x: Tensor) -> Tensor:
        """See `Pipeline`; pixels are rounded to 8 bits first.

        Raises:
            InputError: if the function returns anything but such images.
        """
        return torch.stack([self._one(image) for image in to_pillow(x)]).to(x)

    def _one(self, image: Image.Image) -> Tensor:
        result = self.function(image)
        if isinstance(result, Image.Image):
            return dequantize(to_tensor(np.asarray(result.convert("RGB"))))
        return _checked(result, self.name, 1, batch=False)


def to_pillow(x: Tensor) -> list[Image.Image]:
    """Round images (B, 3, H, W) in [0, 1] to 8 bits, as RGB images of Pillow.

    >>> to_pillow(torch.ones(1, 3, 2, 4))[0].size
    (4, 2)
    """
    return [Image.fromarray(image) for image in quantize(x.detach()).permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def _checked(result: object, name: str, count: int, *, batch: bool) -> Tensor:
    shape = f"({count}, 3, h, w)" if batch else "(3, h, w)"
    wanted = f"{'' if batch else 'a Pillow image or '}floating-point pixels {shape} in [0, 1]"
    if not isinstance(result, Tensor) or not result.is_floating_point():
        got = str(result.dtype) if isinstance(result, Tensor) else type(result).__name__
        raise InputError(EXPECTED.format(name, wanted, got))
    if result.ndim != 3 + batch or result.shape[-3] != 3 or (batch and len(result) != count):
        raise InputError(EXPECTED.format(name, wanted, f"shape {tuple(result.shape)}"))
    low, high = (float(value) for value in result.detach().aminmax())
    if not -1e-4 <= low <= high <= 1 + 1e-4:
        raise InputError(EXPECTED.format(name, wanted, f"pixels from {low:.3g} to {high:.3g}"))
    return result
