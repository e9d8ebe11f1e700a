"""Files that appear whole or not at all, and tables among them, read back."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from oodattack.core.errors import InputError, WriteError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

PARTIAL = ".partial"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, put it on the disk, then give it its name.

    A process that dies on the way leaves at most a file that ends in ``.partial``.

    Raises:
        WriteError: if the file cannot be written (no space, no permission).
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # half a file on a full disk is of no use
            partial.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise WriteError(
            f"cannot write {path}: {reason}; what was written before is kept. Mend that and give the same command again"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "a.txt", "hello")
    ...     (Path(folder) / "a.txt").read_text()
    'hello'
    """
    write_whole(path, lambda partial: _write(partial, text.encode()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file whole."""
    write_whole(path, lambda partial: _write(partial, data))


def write_torch(path: Path, value: object) -> None:
    """Write a value by `torch.save`, whole.

    By way of bytes: torch's own writer tells of a full disk by a RuntimeError, and leaves half a file.
    """
    import torch

    buffer = BytesIO()
    torch.save(value, buffer)
    write_bytes(path, buffer.getvalue())


def write_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write a state dict as safetensors, whole; by way of bytes, as `write_torch`."""
    from safetensors.torch import save

    write_bytes(path, save({name: value.contiguous() for name, value in state.items()}))


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """A Parquet file's rows.

    Raises:
        InputError: if the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        table.validate(full=True)  # texts that are none
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; delete it and give the same command again") from error
    return table


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync_directory(path: Path) -> None:
    """Make the new name last through a power cut, where the system can open a directory."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
