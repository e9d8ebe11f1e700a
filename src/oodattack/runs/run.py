"""A run directory: ``run.json`` and Parquet shards.

``run.json`` is written first and does not change once a shard exists. A shard is a fixed range of rows,
``shards/00012.parquet``, written whole by the process that computed it; if two processes write the same shard, the
first one wins. The shards that exist are the only record of which rows are done, so nothing can contradict them.
``hashes/`` contains the SHA-256 of each file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from oodattack.core.notebook import html_table
from oodattack.runs.rows import SCHEMA
from oodattack.storage import hashes
from oodattack.storage.tables import create_table, read_record, read_table, with_record


@dataclass(frozen=True)
class ShardRecord:
    """What a shard records about itself in its metadata.

    Attributes:
        skipped: images that could not be used, by name, with the reason.
        batch_sizes: number of rows in each batch, including skipped ones; several if memory was too small for one.
        machine: the machine that computed it: device, its model, torch version, number of threads. Runs of format 2
            lack this and the batch sizes.
    """

    skipped: Mapping[str, str] = field(default_factory=dict)
    batch_sizes: Sequence[int] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        header: the contents of ``run.json``.
    """

    path: Path
    header: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Run in {self.path}: {self._finished()} of {self.header['rows']} samples finished>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        settings = self.header["settings"]
        mape = [value for value in self.read(["mape"])["mape"].to_pylist() if value is not None]
        facts = {
            "encoder": settings["encoder"],
            "images": settings["images"],
            "starts": ", ".join(settings["start"]),
            "ball": f"{settings['norm']}, eps {', '.join(map(str, settings['eps']))}",
            "attack": f"{settings['method']}, {settings['steps']} steps",
            "samples": f"{self._finished()} of {self.header['rows']} finished",
            "median MAPE": f"{median(mape):.3g}" if mape else "none yet",
        }
        return html_table(f"Run in {self.path}", ["", ""], facts.items())

    def _finished(self) -> int:
        return sum(len(self.shard_rows(number)) for number in self.done())

    @property
    def shard_count(self) -> int:
        """Number of shards of the complete run."""
        return int(-(-self.header["rows"] // self._rows_per_shard))

    def shard(self, number: int) -> Path:
        """File of a shard, whether it exists or not."""
        return self.path / "shards" / f"{number:05d}.parquet"

    def shard_rows(self, number: int) -> range:
        """Rows of a shard."""
        size = self._rows_per_shard
        return range(number * size, min((number + 1) * size, self.header["rows"]))

    def done(self) -> list[int]:
        """Numbers of the shards that exist, in order; lists the directory once."""
        names = {path.name for path in (self.path / "shards").glob("*.parquet")}
        return [number for number in range(self.shard_count) if self.shard(number).name in names]

    def write_shard(self, number: int, rows: Sequence[Mapping[str, Any]], record: ShardRecord) -> None:
        """Write a shard whole; if it exists already, keep the existing one.

        Args:
            number: number of the shard.
            rows: one mapping per sample, with the columns of `SCHEMA`.
            record: stored in the shard's metadata.

        Raises:
            WriteError: if it cannot be written.
        """
        file = self.shard(number)
        if create_table(file, pa.Table.from_pylist(list(rows), schema=with_record(SCHEMA, asdict(record)))):
            hashes.record(self.path, file)

    def delete_shard(self, number: int) -> None:
        """Delete a shard, so that the run computes it again."""
        hashes.forget(self.path, self.shard(number))
        self.shard(number).unlink()

    def read_shard(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard.

        Raises:
            InputError: if the file is damaged.
        """
        return read_table(self.shard(number), columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All finished rows, in order. Name the columns you need: images are large.

        Raises:
            InputError: if a file is damaged.
        """
        tables = [self.read_shard(number, columns) for number in self.done()]
        if not tables:
            schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
            return schema.empty_table()
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def record(self, number: int) -> ShardRecord:
        """What a shard records about itself.

        Raises:
            InputError: if the file is damaged.
        """
        found = read_record(self.shard(number))
        return ShardRecord(found.get("skipped", {}), found.get("batch_sizes", ()), found.get("machine", {}))

    def skipped(self) -> dict[str, str]:
        """Images of finished shards that could not be used, with the reason."""
        found: dict[str, str] = {}
        for number in self.done():
            found.update(self.record(number).skipped)
        return found

    @property
    def _rows_per_shard(self) -> int:
        """In runs of format 2, shards have the rows of one batch."""
        return int(self.header.get("rows_per_shard", self.header["batch_size"]))
