"""Images in one NumPy file, the format of CIFAR-10-C and of common outlier exposure sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.decode import reason
from oodattack.images.files import numbered
from oodattack.images.labels import Labels, by_number

SUFFIX = ".npy"
LABELS = "labels.npy"
_Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in a .npy file, read from disk one at a time.

    Attributes:
        spec: the string that the user gave.
        path: the file.
        names: FILE/INDEX.
        pixels: memory-mapped uint8 array of shape (N, H, W, C), where C is 1 or 3.
    """

    spec: str
    path: Path
    names: tuple[str, ...]
    pixels: _Bytes

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`."""
        image = torch.from_numpy(np.array(self.pixels[index]))
        return image.permute(2, 0, 1).expand(3, -1, -1).contiguous()

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """Labels from `labels.npy` in the same folder, if it has one per image."""
        path = self.path.with_name(LABELS)
        if not path.is_file():
            return None
        numbers = _load(path)
        return by_number(numbers[i] for i in indices) if numbers.shape == (len(self),) else None

    def content(self, index: int) -> bytes:
        """The pixels, after the shape that they are stored in."""
        return f"{self.pixels.shape[1:]}".encode() + bytes(self.pixels[index].tobytes())


def open_array(spec: str, path: Path) -> ArraySource:
    """Open the images in a .npy file without reading any of them.

    The array must be uint8 of shape (N, H, W, 3), (N, H, W) or (N, H, W, 1), or channels first.

    Raises:
        InputError: if the file is damaged or contains anything else.
    """
    pixels = _load(path)
    shape = pixels.shape
    if len(shape) == 3:
        pixels = pixels[..., None]
    elif len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or pixels.size == 0:
        raise InputError(
            f"expected images in {path} as uint8 (N, H, W, 3), got {pixels.dtype} {shape}; convert the array"
        )
    return ArraySource(spec, path, tuple(numbered(path.stem, len(pixels))), pixels)


def _load(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r")  # rejects pickled objects, which could execute code
    except Exception as error:  # NumPy parses the header as a Python literal and lets any parser error through
        raise InputError(f"cannot read {path} as a NumPy array: {reason(error)}") from error
