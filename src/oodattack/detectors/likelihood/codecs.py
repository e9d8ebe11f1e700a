"""Lossless codecs as bounds on the complexity of an image: the true lengths of encoded files."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Codec = Callable[[np.ndarray], bytes]
"""Maps pixels (H, W, 3) uint8 to an encoded file.

Its headers count as well: 57 bytes of every PNG, and 85 of every JPEG 2000 container. They are the same for all images
of a size.
"""


def codecs() -> Mapping[str, Codec]:
    """The lossless codecs that are installed, by name: PNG, WebP, JPEG 2000 and, with imagecodecs, JPEG XL.

    Each takes milliseconds for a small image: method 6 and quality 100 of WebP take 50 times as long as method 4 and
    quality 50, and efforts of JPEG XL beyond 5 up to ten times as long; neither makes photographs of 64x64 pixels
    smaller. PNG is at its highest level, which is what ``optimize`` means to Pillow. JPEG 2000 needs its reversible
    colour transform (``mct``), off by default in Pillow, without which grey photographs take almost three times the
    bytes. FLIF, which Serra et al. (2020) also used, is not packaged.

    >>> grey = np.full((16, 16, 3), 128, dtype=np.uint8)
    >>> [len(codec(grey)) < 300 for codec in codecs().values()][:3]
    [True, True, True]
    """
    found: dict[str, Codec] = {
        "PNG": partial(_pillow, format="PNG", optimize=True),
        "WebP": partial(_pillow, format="WebP", lossless=True, quality=50, method=4),
        "JPEG 2000": partial(_pillow, format="JPEG2000", irreversible=False, mct=1),
    }
    if find_spec("imagecodecs") is not None:
        found["JPEG XL"] = _jpeg_xl
    return found


def lengths(levels: Tensor) -> Tensor:
    """The lengths of images under each of `codecs`.

    Args:
        levels: (B, 3, H, W) uint8.

    Returns:
        (B, C) bytes, float64, on the CPU.

    >>> lengths(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape[0]
    2
    """
    pixels = levels.movedim(1, -1).cpu().contiguous().numpy()
    encoders = codecs()
    with ThreadPoolExecutor() as pool:  # PNG, WebP and JPEG XL release the interpreter's lock
        columns = [[len(file) for file in pool.map(codec, pixels)] for codec in encoders.values()]
    return torch.tensor(columns, dtype=torch.float64).T


def _pillow(pixels: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _jpeg_xl(pixels: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=5, numthreads=1))
