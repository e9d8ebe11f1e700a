"""Memory: freed memory is kept for reuse between passes, and a batch that does not fit is halved."""

import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from oodattack.core.errors import InputError

T = TypeVar("T")
logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed CPU tensors for reuse, for the whole process; other systems are unaffected.

    Each pass of an encoder frees hundreds of megabytes and then allocates them again. By default the memory goes back
    to the system in between, which zeroes every page before handing it out again: a third of the time of an
    EfficientNet pass.

    >>> keep_freed_memory()
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    # The mmap threshold alone would make it worse, because setting it disables glibc's dynamic adjustment of the trim
    # threshold. Older versions accept at most 32 MB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, -1)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    # The allocators of the CPU and of MPS raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "MPS backend out of memory" in text)


def in_batches(rows: range, size: int, compute: Callable[[range], T]) -> Iterator[tuple[range, T]]:
    """Compute rows in batches; when a batch does not fit into memory, halve it and continue with the smaller size.

    Call it once per chunk: every chunk then starts with the full size, and its batches do not depend on which chunks
    the process computed before.

    Args:
        rows: the rows of the chunk.
        size: maximum number of rows per batch.
        compute: computes one batch.

    Yields:
        Each batch and its result, in order.

    Raises:
        InputError: if a single row does not fit.

    >>> def total(rows: range) -> int:
    ...     if len(rows) > 2:
    ...         raise MemoryError
    ...     return sum(rows)
    >>> with warnings.catch_warnings(action="ignore"):
    ...     list(in_batches(range(5), 4, total))
    [(range(0, 2), 1), (range(2, 4), 5), (range(4, 5), 4)]
    """
    while rows:
        batch = rows[:size]
        try:
            result = compute(batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise InputError(
                    "expected enough memory for a batch of one image, got less than this encoder needs; free some, use"
                    " another --device, or load the encoder with a smaller size="
                ) from error
            size = (len(batch) + 1) // 2
            logger.warning("not enough memory for a batch of %d: reduced to %d", len(batch), size)
            warnings.warn(f"not enough memory for a batch of {len(batch)}: reduced to {size}", stacklevel=2)
            continue  # outside the except block, so that the error and the batch's tensors are released
        yield batch, result
        rows = rows[len(batch) :]


def compute_images(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``compute(images)``, in smaller batches if they do not all fit into memory at once.

    Args:
        compute: computes a row for each image of a batch.
        images: (B, 3, H, W), at least one.

    Raises:
        InputError: if a single image does not fit.

    >>> compute_images(lambda images: images.mean((1, 2, 3)), torch.ones(3, 3, 8, 8))
    tensor([1., 1., 1.])
    """
    count = len(images)

    def part(rows: range) -> Tensor:
        # The images themselves if they fit, because views recognise them and keep their last result.
        return compute(images if len(rows) == count else images[rows.start : rows.stop])

    return torch.cat([result for _, result in in_batches(range(count), count, part)])
