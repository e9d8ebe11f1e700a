"""Images in MNIST's idx format, plain or compressed by gzip."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oodattack.errors import InputError
from oodattack.images.decode import reason
from oodattack.images.files import numbered, size_in_bytes

SUFFIXES = ("idx3-ubyte", "idx3-ubyte.gz")
MAGIC = b"\x00\x00\x08\x03"  # bytes, in three dimensions
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

    def digest(self) -> str:
        """SHA-256 over the file's name and its size in bytes."""
        return hashlib.sha256(f"{self.path.name}\0{size_in_bytes(self.path)}".encode()).hexdigest()


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
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(16)
            count, height, width = np.frombuffer(head[4:], ">u4").tolist() if len(head) == 16 else (0, 0, 0)
            if head[:4] != MAGIC or not 0 < count * height * width <= MOST:
                raise InputError(f"expected images in MNIST's idx format in {path}, got something else")
            data = file.read(count * height * width)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    if len(data) < count * height * width:
        raise InputError(f"expected {count} images of {height}x{width} in {path}, got the file cut off")
    pixels = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(count, height, width).copy())
    return IdxSource(spec, path, tuple(numbered(path.name.partition("-idx3")[0], count)), pixels)
