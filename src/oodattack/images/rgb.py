"""Convert any pixel format to 8-bit RGB."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError


def check_area(width: int, height: int) -> None:
    """Reject an image without pixels, or one large enough to be a decompression bomb.

    Raises:
        InputError: if a side is 0, or the image has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.

    >>> check_area(640, 480)
    """
    if width < 1 or height < 1:
        raise InputError(f"expected at least one pixel, got {width} x {height}")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise InputError(
            f"expected at most {limit} pixels, got {width} x {height}; "
            "resize it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"
        )


def levels(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale values to 8-bit levels: `low` maps to 0, `high` to 255, linearly in between and clipped outside.

    If `low == high`, every value maps to 0.

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
    """Copy a greyscale `(H, W)` or colour `(H, W, 3)` array to a uint8 tensor `(3, H, W)`.

    >>> to_tensor(np.zeros((2, 5), np.uint8)).shape
    torch.Size([3, 2, 5])
    """
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def rgb(image: Image.Image) -> Tensor:
    """Convert a Pillow image of any mode to the RGB that a viewer would show, uint8 `(3, H, W)`.

    Transparency is composited on white. 16-bit greyscale is divided by 257; float greyscale is taken as [0, 1]. If any
    value is outside that range, the values are stretched so that the smallest becomes 0 and the largest 255.

    Raises:
        InputError: if a pixel is NaN or infinite.

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
