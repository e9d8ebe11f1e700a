"""Parquet files: written whole, checked when they are read, with images as PNG bytes in their cells.

An image is a struct of ``bytes`` and ``path``, the layout of Hugging Face's `Image` feature. Facts about a whole table,
such as the batch sizes it was computed with, are stored as JSON in the schema's metadata (`with_record`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oodattack.core.errors import InputError
from oodattack.storage.files import create_whole, write_whole

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_RECORD = b"oodattack"


def image_cell(png: bytes, path: str) -> dict[str, Any]:
    """An image as a cell of type `IMAGE`.

    >>> image_cell(b"...", "a.png")
    {'bytes': b'...', 'path': 'a.png'}
    """
    return {"bytes": png, "path": path}


def with_record(schema: pa.Schema, record: Mapping[str, Any]) -> pa.Schema:
    """A schema with a JSON record added to its metadata.

    >>> with_record(pa.schema([]), {"batch_sizes": [8, 8]}).metadata
    {b'oodattack': b'{"batch_sizes": [8, 8]}'}
    """
    return schema.with_metadata({**(schema.metadata or {}), _RECORD: json.dumps(record).encode()})


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table whole, replacing any file of that name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(Path(folder) / "a.parquet", pa.table({"row": [0, 1]}))
    ...     read_table(Path(folder) / "a.parquet")["row"].to_pylist()
    [0, 1]

    Raises:
        WriteError: if it cannot be written.
    """
    write_whole(path, _writer(table))


def create_table(path: Path, table: pa.Table) -> bool:
    """Write a table whole unless a file of that name exists; returns whether this call created it.

    Raises:
        WriteError: if it cannot be written.
    """
    return create_whole(path, _writer(table))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a table, with all columns or only the given ones.

    Raises:
        InputError: if the file is damaged.
    """
    with _readable(path):
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        table.validate(full=True)  # invalid UTF-8
        return table


def read_schema(path: Path) -> pa.Schema:
    """The names and types of a table's columns.

    Raises:
        InputError: if the file is damaged.
    """
    with _readable(path):
        return pq.read_schema(path)


def read_record(path: Path) -> dict[str, Any]:
    """The record of a table (`with_record`); empty if it has none.

    Raises:
        InputError: if the file is damaged.
    """
    with _readable(path):
        record = json.loads((pq.read_schema(path).metadata or {}).get(_RECORD, b"{}"))
        if not isinstance(record, dict):
            raise ValueError(f"expected a JSON object in its metadata, got {record!r}")
        return record


def _writer(table: pa.Table) -> Callable[[Path], None]:
    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
            if table.num_rows:  # `datasets` fails on a row group without rows
                writer.write_table(table)

    return write


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert any exception that a damaged file raises into an InputError of one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; delete it and repeat the command") from error
