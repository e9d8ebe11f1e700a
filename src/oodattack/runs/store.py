"""A run directory: ``run.json`` and Parquet shards.

``run.json`` is written first and never changed. A shard is one batch of rows, ``shards/00012.parquet``, written
whole. What a run has done is what shards it has: nothing else is kept, so nothing can disagree with them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oodattack.core.errors import InputError
from oodattack.runs.rows import SCHEMA
from oodattack.storage.directory import claim
from oodattack.storage.files import read_table, write_whole

FORMAT = 2
SECTIONS = ("settings", "inputs", "environment")


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        header: the contents of ``run.json``.
    """

    path: Path
    header: Mapping[str, Any]

    @property
    def shard_count(self) -> int:
        """Number of shards when the run is complete."""
        return int(-(-self.header["rows"] // self.header["batch_size"]))

    def shard(self, number: int) -> Path:
        """File of a shard, whether it is there yet or not."""
        return self.path / "shards" / f"{number:05d}.parquet"

    def shard_rows(self, number: int) -> range:
        """Rows of a shard."""
        size = self.header["batch_size"]
        return range(number * size, min((number + 1) * size, self.header["rows"]))

    def done(self) -> list[int]:
        """Numbers of the shards that are there."""
        return [number for number in range(self.shard_count) if self.shard(number).exists()]

    def write_shard(self, number: int, rows: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> None:
        """Write a shard whole.

        Args:
            number: which one.
            rows: one mapping per sample, with the columns of `SCHEMA`.
            skipped: images that could not be decoded, with the reason.
        """
        metadata = {**(SCHEMA.metadata or {}), b"oodattack": json.dumps({"skipped": skipped}).encode()}
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(metadata))

        def write(partial: Path) -> None:
            with pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
                if len(table):  # `datasets` fails on a row group without rows
                    writer.write_table(table)

        write_whole(self.shard(number), write)

    def read_shard(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard.

        Raises:
            InputError: if the file is damaged.
        """
        return read_table(self.shard(number), columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows so far, in order; name the columns that are needed, for images are large."""
        tables = [self.read_shard(number, columns) for number in self.done()]
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def skipped(self) -> dict[str, str]:
        """Images that could not be decoded so far, with the reason."""
        found: dict[str, str] = {}
        for number in self.done():
            metadata = self.read_shard(number, []).schema.metadata or {}
            try:
                found.update(json.loads(metadata.get(b"oodattack", b"{}")).get("skipped", {}))
            except (ValueError, AttributeError) as error:
                path = self.shard(number)
                raise InputError(f"cannot read {path}: {error}; delete it and give the same command again") from error
        return found


def open_run(path: Path) -> Run:
    """Open a run directory to read it.

    Raises:
        InputError: if it is none, or one of another format.

    >>> open_run(Path("no/such/run"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected a run directory with a run.json, got no/such/run; `oodattack attack` ...
    """
    file = Path(path) / "run.json"
    try:
        header = json.loads(file.read_text())
        version = header["format"]
        if version == FORMAT and not (header["rows"] > 0 and header["batch_size"] > 0):
            raise ValueError("it has no rows")
        if version == FORMAT and not all(isinstance(header[key], dict) for key in SECTIONS):
            raise ValueError("its settings are missing")
    except FileNotFoundError as error:
        raise InputError(
            f"expected a run directory with a run.json, got {path}; `oodattack attack` makes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {file}: {error}; give the directory of another run") from error
    if version != FORMAT:
        raise InputError(f"expected a run of format {FORMAT}, got {version!r} in {file}; use the version that made it")
    return Run(Path(path), header)


@contextmanager
def start_run(path: Path, header: Mapping[str, Any]) -> Iterator[Run]:
    """Make a run directory, or go on with the one that is there; nobody else writes to it meanwhile.

    Args:
        path: the directory.
        header: ``settings`` and ``inputs`` (mappings; they must be those of the run that is there), ``rows``,
            ``batch_size`` and ``environment``.

    Raises:
        InputError: if the directory holds a run of other settings, or files that are no run, or is in use.

    >>> import tempfile
    >>> header = {"settings": {}, "inputs": {}, "rows": 10, "batch_size": 4, "environment": {}}
    >>> with tempfile.TemporaryDirectory() as folder, start_run(Path(folder), header) as run:
    ...     run.shard_count, list(run.shard_rows(2)), run.done()
    (3, [8, 9], [])
    """
    with claim(path, "run.json", {"format": FORMAT, **header}, is_begun=_has_shards) as found:
        yield open_run(path) if found else Run(Path(path), {"format": FORMAT, **header})


def _has_shards(path: Path) -> bool:
    return any(path.glob("shards/*.parquet")) and open_run(path) is not None  # a run of another format is told as one
