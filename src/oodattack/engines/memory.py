"""Memory: kept between passes, and when a batch does not fit, the batch is halved."""

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from oodattack.core.errors import InputError

T = TypeVar("T")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors on the CPU free, for the next ones; only glibc needs to be told.

    Every pass of an encoder frees hundreds of megabytes and asks for them again. By default they go back to the system
    in between, which clears each page before it gives it out anew: a third of the time of an EfficientNet's pass.

    >>> keep_freed_memory()
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # The second alone would make it worse: it ends glibc's own adapting of the first.
    # Older versions take no more than 32 MB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, -1)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, on any device.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    # The allocators of the CPU and of MPS raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "MPS backend out of memory" in text)


class Fitting:
    """Cuts rows into batches that fit into memory, and remembers the size that did.

    Args:
        most: rows at once, until memory proves too small.

    >>> fitting = Fitting(4)
    >>> def work(rows: range) -> int:
    ...     if len(rows) > 2:
    ...         raise MemoryError
    ...     return sum(rows)
    >>> with warnings.catch_warnings(action="ignore"):
    ...     list(fitting.batches(range(5), work))
    [(range(0, 2), 1), (range(2, 4), 5), (range(4, 5), 4)]
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def batches(self, rows: range, work: Callable[[range], T]) -> Iterator[tuple[range, T]]:
        """Every batch of rows in turn, with what ``work`` gives for it; one that is too large is halved first.

        Raises:
            InputError: a single row does not fit.
        """
        while rows:
            batch = rows[: self.most]
            try:
                done = work(batch)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise InputError(
                        "expected memory for a batch of one image, got too little of it for the attack on this"
                        " encoder; free some, use another --device, or load the encoder with a smaller size="
                    ) from error
                self.most = (len(batch) + 1) // 2
                warnings.warn(f"memory is too small for {len(batch)} samples at once: {self.most} now", stacklevel=2)
                continue  # outside of this block the error, and with it all that the batch held, is gone
            yield batch, done
            rows = rows[len(batch) :]
