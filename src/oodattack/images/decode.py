"""Decode an image file of any common format to 8-bit RGB."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import dicom
from oodattack.images.rgb import check_area, rgb

# An explicit list keeps Pillow from trying formats that run programs (EPS) or that no camera writes.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


def decode(source: Path | bytes, *, name: str | None = None) -> Tensor:
    """Read one image: PNG, JPEG, WebP, BMP, TIFF, GIF, PPM/PGM/PBM or DICOM.

    The result is what a viewer would show: rotated according to the EXIF data, transparency composited on white, 16-bit
    and float greyscale scaled to 8 bits, medical images windowed. Of several frames, the first is read.

    Args:
        source: a file, or its content.
        name: the image's name in error messages; defaults to the path.

    Returns:
        uint8 `(3, H, W)`, RGB, at the file's native size.

    Raises:
        InputError: "cannot decode NAME: reason", for any fault in the file.

    >>> decode(b"P3 2 1 255  255 0 0  0 0 255")[:, 0].tolist()
    [[255, 0], [0, 0], [0, 255]]
    """
    label = name or (str(source) if isinstance(source, Path) else "image bytes")
    try:
        with source.open("rb") if isinstance(source, Path) else BytesIO(source) as stream:
            return _decode(stream, label)
    except Exception as error:  # on broken files the decoders raise exceptions of almost any type
        raise InputError(f"cannot decode {label}: {reason(error)}") from error


def reason(error: Exception) -> str:
    r"""An exception's message on one line, without the traceback that pydicom includes in its messages.

    >>> reason(FileNotFoundError(2, "No such file or directory", "a.png"))
    'No such file or directory'
    >>> reason(TypeError("bad tag\nTraceback (most recent call last):\n..."))
    'bad tag'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).partition("Traceback (")[0].split()) or type(error).__name__


def _decode(stream: BinaryIO, label: str) -> Tensor:
    if not stream.read(1):
        raise InputError("it is empty")
    stream.seek(0)
    if dicom.is_dicom(stream) or label.lower().endswith(dicom.SUFFIXES):
        return dicom.read_dicom(stream)
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"expected {', '.join(FORMATS)} or DICOM, got something else") from error
    with image:
        check_area(*image.size)  # read from the header, before any pixel is decoded
        return rgb(ImageOps.exif_transpose(image))
