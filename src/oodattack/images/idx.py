"""Images in MNIST's idx format, plain or compressed by gzip."""

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
from oodattack.images.files import digest_of, numbered
from oodattack.images.labels import Labels, by_number

SUFFIXES = ("idx3-ubyte", "idx3-ubyte.gz")
IMAGES, LABELS = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"  # bytes, in three dimensions and in one
MOST = 2**31  # bytes: a small compressed file may promise any number


@dataclass(frozen=True)
class IdxSource:
    """Grey images of one idx file, held in memory.

    Attributes:
        spec: what the user wrote.
        path: the file.
        names: FILE/INDEX.
        pixels: (N, H, W) uint8.
    """

    spec: str
    path: Path
    names: tuple[str, ...]
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 `(3, H, W)`, native size."""
        return self.pixels[index].expand(3, -1, -1).clone()

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """What the file beside this one says that has `labels` and `idx1` in its name for `images` and `idx3`, if any.

        Raises:
            InputError: if that file is damaged, or is of another number of images.
        """
        name = self.path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        there = next((path for end in ("", ".gz") if (path := self.path.with_name(name + end)).is_file()), None)
        if there is None:
            return None
        numbers = _read(there, LABELS, "labels")
        if len(numbers) != len(self):
            raise InputError(f"expected {len(self)} labels in {there}, got {len(numbers)}")
        return by_number(numbers[i] for i in indices)

    def digest(self) -> str:
        """SHA-256 over the file's name and its size in bytes."""
        return digest_of(self.path)


def is_idx(name: str) -> bool:
    """Whether a file's name is that of images in idx format.

    >>> is_idx("mnist/t10k-images-idx3-ubyte.gz"), is_idx("t10k-labels-idx1-ubyte.gz")
    (True, False)
    """
    return name.endswith(SUFFIXES)


def open_idx(spec: str, path: Path) -> IdxSource:
    """Read all images of an idx file.

    Raises:
        InputError: if the file is damaged, or is none of grey images.
    """
    pixels = torch.from_numpy(_read(path, IMAGES, "images"))
    return IdxSource(spec, path, tuple(numbered(path.name.partition("-idx3")[0], len(pixels))), pixels)


def _read(path: Path, magic: bytes, what: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The bytes of an idx file of such a kind, in its own shape."""
    dimensions = magic[3]
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            shape = np.frombuffer(head[4:], ">u4").tolist() if len(head) == 4 + 4 * dimensions else [0]
            size = math.prod(shape)
            if head[:4] != magic or not 0 < size <= MOST:
                raise InputError(f"expected {what} in MNIST's idx format in {path}, got something else")
            data = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    if len(data) < size:
        told = "x".join(map(str, shape))
        raise InputError(f"expected {told} bytes of {what} in {path}, got the file cut off")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
