"""Resize images and encode them as PNG."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.rgb import to_tensor


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the image until it just covers `size` (bicubic, antialiased), then centre-crop it.

    Equivalent to resizing the shorter side and centre-cropping, but the part outside the crop is never
    allocated, so a strip of 1 x 100000 pixels is safe.

    Args:
        image: uint8 `(3, H, W)`.
        size: `(h, w)` in pixels.

    Returns:
        uint8 `(3, h, w)`; the image itself if it already has that size.

    Raises:
        InputError: if the image is not uint8 `(3, H, W)`, or a side of `size` is below 1.

    >>> fit(torch.full((3, 10, 30), 7, dtype=torch.uint8), (5, 5)).unique().tolist()
    [7]
    """
    _check_image(image)
    check_size(size)
    (height, width), (h, w) = image.shape[1:], size
    if (height, width) == (h, w):
        return image
    # The size after resizing, rounded as in torchvision; the box is the crop in coordinates of the original image.
    if h * width >= w * height:
        tall, wide = h, max(w, h * width // height)
    else:
        tall, wide = max(h, w * height // width), w
    top, left = round((tall - h) / 2), round((wide - w) / 2)
    box = (left * width / wide, top * height / tall, (left + w) * width / wide, (top + h) * height / tall)
    resized = _to_pillow(image).resize((w, h), Image.Resampling.BICUBIC, box=box)
    return to_tensor(np.asarray(resized))


def encode_png(image: Tensor) -> bytes:
    """Encode the image as PNG; `decode` restores exactly the same pixels.

    Args:
        image: uint8 `(3, H, W)`.

    Raises:
        InputError: if the image is not uint8 `(3, H, W)`.

    >>> encode_png(torch.zeros(3, 1, 1, dtype=torch.uint8))[1:4]
    b'PNG'
    """
    _check_image(image)
    buffer = BytesIO()
    _to_pillow(image).save(buffer, format="PNG")
    return buffer.getvalue()


def check_size(size: tuple[int, int]) -> None:
    """Reject an invalid image size.

    Raises:
        InputError: unless `size` is two integers of at least 1.

    >>> check_size((224, 224))
    """
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise InputError(f"expected a size (height, width) of at least 1 x 1 pixels, got {size!r}")


def _check_image(image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"expected a uint8 image (3, H, W), got {image.dtype} {tuple(image.shape)}")


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
