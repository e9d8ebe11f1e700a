"""The header of a PNG file."""

import struct
from dataclasses import dataclass

from oodattack.core.errors import InputError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"}


@dataclass(frozen=True)
class PngHeader:
    """What the header of a PNG file declares.

    Attributes:
        size: height and width in pixels.
        bits: bits per channel.
        colour: "RGB" and others.
    """

    size: tuple[int, int]
    bits: int
    colour: str


def png_header(data: bytes) -> PngHeader:
    """Read the header of a PNG file.

    Raises:
        InputError: if it is not a PNG file.

    >>> import torch
    >>> from oodattack.images import encode_png
    >>> png_header(encode_png(torch.zeros(3, 4, 5, dtype=torch.uint8)))
    PngHeader(size=(4, 5), bits=8, colour='RGB')
    """
    if len(data) < 26 or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise InputError("expected a PNG file, got something else")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return PngHeader((height, width), bits, _COLOURS.get(colour, "unknown"))
