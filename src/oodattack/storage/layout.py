"""What a directory of results contains, for the code that writes it and the code that verifies it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """The files of a directory that results depend on; figures and pages can be made again from them.

    Attributes:
        noun: what the directory contains, for messages: "run", "audit".
        format: the version of the files, which is also that of their JSON schemas. The header records it as ``format``.
        documents: JSON files and the names of their published schemas, if any; the header is the first.
        tables: patterns of Parquet files and the schemas of their columns.
        others: patterns of other files.
    """

    noun: str
    format: int
    documents: Mapping[str, str | None]
    tables: Mapping[str, pa.Schema] = field(default_factory=dict)
    others: Sequence[str] = ()

    @property
    def header(self) -> str:
        """File name of the header.

        >>> Layout("run", 4, {"run.json": "run"}).header
        'run.json'
        """
        return next(iter(self.documents))

    def files(self, root: Path) -> Iterator[Path]:
        """The files that exist below a directory."""
        for pattern in (*self.documents, *self.tables, *self.others):
            yield from sorted(root.glob(pattern))
