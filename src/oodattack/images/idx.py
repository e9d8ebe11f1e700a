"""Images in MNIST's idx format, plain or gzip-compressed."""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.decode import reason
from oodattack.images.files import numbered
from oodattack.images.labels import Labels, by_number

SUFFIXES = ("idx3-ubyte", "idx3-ubyte.gz")
IMAGES_MAGIC, LABELS_MAGIC = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"  # uint8, in three dimensions and in one
MAX_BYTES = 2**31  # the header of a small compressed file may claim any size


@dataclass(frozen=True)
class IdxSource:
    """Greyscale images of one idx file, kept in memory.

    Attributes:
        spec: the string that the user gave.
        path: the file.
        names: FILE/INDEX.
        pixels: uint8 tensor of shape (N, H, W).
    """

    spec: str
    path: Path
    names: tuple[str, ...]
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`."""
        return self.pixels[index].expand(3, -1, -1).clone()

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """Labels from the companion file, whose name has `labels-idx1` in place of `images-idx3`, if it exists.

        Raises:
            InputError: if that file is damaged or has another number of labels.
        """
        name = self.path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        companions = (self.path.with_name(name + end) for end in ("", ".gz"))
        path = next((path for path in companions if path.is_file()), None)
        if path is None:
            return None
        numbers = _read(path, LABELS_MAGIC, "labels")
        if len(numbers) != len(self):
            raise InputError(f"expected {len(self)} labels in {path}, got {len(numbers)}")
        return by_number(numbers[i] for i in indices)

    def content(self, index: int) -> bytes:
        """The pixels, after the shape."""
        return f"{tuple(self.pixels.shape[1:])}".encode() + self.pixels[index].numpy().tobytes()


def is_idx(name: str) -> bool:
    """Whether a file name is that of an idx file of images.

    >>> is_idx("mnist/t10k-images-idx3-ubyte.gz"), is_idx("t10k-labels-idx1-ubyte.gz")
    (True, False)
    """
    return name.endswith(SUFFIXES)


def open_idx(spec: str, path: Path) -> IdxSource:
    """Read all images of an idx file.

    Raises:
        InputError: if the file is damaged or does not contain greyscale images.
    """
    pixels = torch.from_numpy(_read(path, IMAGES_MAGIC, "images"))
    return IdxSource(spec, path, tuple(numbered(path.name.partition("-idx3")[0], len(pixels))), pixels)


def _read(path: Path, magic: bytes, what: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read an idx file that starts with `magic`, as an array of the shape in its header."""
    dimensions = magic[3]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            shape = np.frombuffer(head[4:], ">u4").tolist() if len(head) == 4 + 4 * dimensions else [0]
            size = math.prod(shape)
            if head[:4] != magic or not 0 < size <= MAX_BYTES:
                raise InputError(f"expected {what} in MNIST's idx format in {path}, got something else")
            data = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    if len(data) < size:
        expected = "x".join(map(str, shape))
        raise InputError(f"expected {expected} bytes of {what} in {path}, got a truncated file")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
