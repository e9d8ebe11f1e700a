"""From the many ways a pixel is stored to 8-bit RGB."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError


def check_area(width: int, height: int) -> None:
    """Refuse an image without pixels, and one so large that it must be a decompression bomb.

    Raises:
        InputError: if a side is 0, or there are more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.

    >>> check_area(640, 480)
    """
    if width < 1 or height < 1:
        raise InputError(f"expected at least one pixel, got {width} x {height}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise InputError(
            f"expected at most {limit} pixels, got {width} x {height}; "
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"
        )


def levels(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers to 8-bit levels: `low` becomes 0, `high` 255, linear between, clipped outside.

    Where `low == high` there is nothing to tell apart, and everything becomes 0.

    Raises:
        InputError: if a value is NaN or infinite.

    >>> levels(np.array([0, 257, 65535]), 0, 65535)
    array([  0,   1, 255], dtype=uint8)
    """
    if not np.isfinite(values).all():
        raise InputError("expected finite pixel values, got NaN or infinity")
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Grey `(H, W)` or colour `(H, W, 3)` to a uint8 tensor `(3, H, W)` of its own.

    >>> to_tensor(np.zeros((2, 5), np.uint8)).shape
    torch.Size([3, 2, 5])
    """
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def rgb(image: Image.Image) -> Tensor:
    """A Pillow image of any mode as a person would see it: uint8 `(3, H, W)`, RGB.

    Transparency lies on white. 16-bit grey is divided by 257; float grey is read as [0, 1]. Values beyond
    those ranges are stretched, the smallest to 0 and the largest to 255.

    Raises:
        InputError: if the image has NaN or infinite pixels.

    >>> rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).flatten().tolist()
    [255, 255, 255]
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        white = 1 if image.mode == "F" else 65535
        if low >= 0 and high <= white:
            low, high = 0, white
        return to_tensor(levels(values, float(low), float(high)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return to_tensor(np.asarray(image.convert("RGB")))
