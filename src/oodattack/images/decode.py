"""One image file of any kind people have, as 8-bit RGB."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import dicom
from oodattack.images.rgb import check_area, rgb

# Named, so that Pillow never tries the formats that run programs (EPS) or that nobody photographs with.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


def decode(source: Path | bytes, *, name: str | None = None) -> Tensor:
    """Read one image: PNG, JPEG, WebP, BMP, TIFF, GIF, PPM/PGM/PBM or DICOM.

    The image comes out as a person expects to see it: turned as its EXIF data say, transparency on white,
    16-bit and float grey scaled to 8 bits, medical images through their window, the first frame of several.

    Args:
        source: a file, or its content.
        name: what to call the image in messages; the path if omitted.

    Returns:
        uint8 `(3, H, W)`, RGB, of the file's own size.

    Raises:
        InputError: "cannot decode NAME: reason", whatever is wrong with the file.

    >>> decode(b"P3 2 1 255  255 0 0  0 0 255")[:, 0].tolist()
    [[255, 0], [0, 0], [0, 255]]
    """
    label = name or (str(source) if isinstance(source, Path) else "image bytes")
    try:
        with source.open("rb") if isinstance(source, Path) else BytesIO(source) as stream:
            return _decode(stream, label)
    except Exception as error:  # on broken files the decoders raise nearly every type there is
        raise InputError(f"cannot decode {label}: {reason(error)}") from error


def reason(error: Exception) -> str:
    r"""What an exception says, in one line, without the traceback that pydicom puts in its messages.

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
        check_area(*image.size)  # known from the header: no pixel has been decoded yet
        return rgb(ImageOps.exif_transpose(image))
