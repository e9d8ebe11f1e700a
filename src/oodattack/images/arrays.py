"""Images in one NumPy file, as CIFAR-10-C and the sets for outlier exposure come."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.decode import reason
from oodattack.images.files import digest_of, numbered
from oodattack.images.labels import Labels, by_number

SUFFIX = ".npy"
LABELS = "labels.npy"
_Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of a .npy file, read from disk one by one.

    Attributes:
        spec: what the user wrote.
        path: the file.
        names: FILE/INDEX.
        pixels: (N, H, W, C) uint8, mapped, C of 1 or 3.
    """

    spec: str
    path: Path
    names: tuple[str, ...]
    pixels: _Bytes

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 `(3, H, W)`, native size."""
        image = torch.from_numpy(np.array(self.pixels[index]))
        return image.permute(2, 0, 1).expand(3, -1, -1).contiguous()

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """What `labels.npy` in the same folder says, if it is of as many images."""
        there = self.path.with_name(LABELS)
        if not there.is_file():
            return None
        numbers = _load(there)
        return by_number(numbers[i] for i in indices) if numbers.shape == (len(self),) else None

    def digest(self) -> str:
        """SHA-256 over the file's name and its size in bytes."""
        return digest_of(self.path)


def open_array(spec: str, path: Path) -> ArraySource:
    """The images of a .npy file, without reading one: (N, H, W, 3), (N, H, W), (N, H, W, 1), or channels first; uint8.

    Raises:
        InputError: if the file is damaged, or holds something else.
    """
    pixels = _load(path)
    shape = pixels.shape
    if len(shape) == 3:
        pixels = pixels[..., None]
    elif len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or pixels.size == 0:
        told = f"{pixels.dtype} {shape}"
        raise InputError(f"expected images in {path} as uint8 (N, H, W, 3), got {told}; save them so")
    return ArraySource(spec, path, tuple(numbered(path.stem, len(pixels))), pixels)


def _load(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r")  # refuses what would execute code
    except Exception as error:  # NumPy reads the header as Python's literals, and passes on what its parser says
        raise InputError(f"cannot read {path} as a NumPy array: {reason(error)}") from error
