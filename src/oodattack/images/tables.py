"""Images in the rows of Parquet files or of Arrow files saved by `datasets`."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.decode import decode, reason
from oodattack.images.files import numbered
from oodattack.images.labels import Labels, by_number

SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True)
class Chunk:
    """Rows that are read together: a row group of a Parquet file, or a memory-mapped Arrow file.

    Attributes:
        path: the file.
        group: index of the row group.
        column: name of the image column.
        first: index of the chunk's first row among all rows of the source.
        rows: number of rows.
        changed: the file's modification time (ns), so that a rewritten file is not served from the cache.
    """

    path: Path
    group: int
    column: str
    first: int
    rows: int
    changed: int


@dataclass(frozen=True)
class TableSource:
    """Images in table rows, loaded one row group at a time.

    Attributes:
        spec: the string that the user gave.
        names: FILE/ROW, without the file's suffix.
        chunks: the location of the rows.
    """

    spec: str
    names: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`; raises InputError if it cannot be decoded."""
        name, stored = self._stored(index)
        return decode(stored, name=name)

    def content(self, index: int) -> bytes:
        """The bytes of the cell, or of the file that it names."""
        name, stored = self._stored(index)
        try:
            return stored.read_bytes() if isinstance(stored, Path) else stored
        except OSError as error:
            raise InputError(f"cannot read {name}: {reason(error)}") from error

    def _stored(self, index: int) -> tuple[str, bytes | Path]:
        """The name of an image in messages, and its bytes or its file."""
        index = range(len(self.names))[index]
        chunk = self.chunks[bisect_right(self.chunks, index, key=lambda chunk: chunk.first) - 1]
        name = f"{self.names[index]} of {chunk.path}"
        try:
            value = _column(chunk)[index - chunk.first].as_py()
        except UnicodeDecodeError as error:  # in the field names of the column
            raise InputError(f"cannot decode {name}: {reason(error)}") from error
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is not None:
            return name, bytes(data)
        if path is not None:
            file: Path = (chunk.path.parent / path).resolve()
            if not file.is_relative_to(chunk.path.parent.resolve()) or not file.is_file():
                raise InputError(f"cannot decode {name}: expected a file next to the table, got {path!r}")
            return name, file
        raise InputError(f"cannot decode {name}: the row has no image")

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """Numbers or names from the only ClassLabel column of `datasets`, or else from the column `label`."""
        paths = list(dict.fromkeys(chunk.path for chunk in self.chunks))
        found = [_label_column(path) for path in paths]
        values = [value for column, _ in found for value in column]
        known = {classes for _, classes in found}
        chosen = [values[i] for i in indices] if len(values) == len(self) else [None]
        texts = [value for value in chosen if isinstance(value, str)]
        if texts and len(texts) == len(chosen):
            return Labels(tuple(texts), tuple(sorted({value for value in values if isinstance(value, str)})))
        return by_number(chosen, known.pop() if len(known) == 1 else None)


def open_tables(spec: str, root: Path, files: Sequence[str]) -> TableSource:
    """Open the images in table files of one format without reading any row.

    Args:
        spec: the string that the user gave.
        root: the folder that the file names are relative to.
        files: paths of .parquet or .arrow files relative to `root`, with '/' as separator.

    Raises:
        InputError: if a file is broken, has zero or several image columns, or there are no rows.
    """
    if len({Path(file).suffix.lower() for file in files}) > 1:
        raise InputError(f"expected one format in {spec}, got .parquet and .arrow files; select one with a pattern")
    names: list[str] = []
    chunks: list[Chunk] = []
    for file in sorted(files):
        found = _chunks(root / file, first=len(names))
        names += numbered(file.rpartition(".")[0], sum(chunk.rows for chunk in found))
        chunks += found
    if not names:
        raise InputError(f"expected images in {spec}, got tables without rows")
    return TableSource(spec, tuple(names), tuple(chunks))


def _chunks(path: Path, first: int) -> list[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".arrow":
            table = _arrow(path)
            schema, groups = table.schema, [table.num_rows]
        else:
            with pq.ParquetFile(path) as parquet:
                schema = parquet.schema_arrow
                footer = parquet.metadata
                groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        changed = path.stat().st_mtime_ns
        _ = schema.names
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: column names that are not UTF-8
        raise InputError(f"cannot read {path} as a table: {reason(error)}") from error
    column = _image_column(schema, path)
    starts = accumulate(groups, initial=first)
    return [
        Chunk(path, group, column, start, rows, changed)
        for group, (start, rows) in enumerate(zip(starts, groups, strict=False))
    ]


def _arrow(path: Path) -> Any:
    """Memory-map the table of an Arrow file."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def _valid(column: Any) -> Any:
    """Validate the column's offsets: pyarrow would follow invalid ones out of bounds and crash the process."""
    column.validate(full=True)
    return column


def _image_column(schema: Any, path: Path) -> str:
    found = [field.name for field in schema if _holds_images(field.type)]
    for name in ("image", "img"):
        if name in found:
            return name
    if len(found) == 1:
        return str(found[0])
    raise InputError(
        f"expected a column of images named 'image' in {path}, got {'several' if found else 'none'}: "
        f"the columns are {', '.join(schema.names)}; rename the one to read"
    )


def _holds_images(kind: Any) -> bool:
    """Whether a column type is plain bytes or the struct<bytes, path> of Hugging Face's Image."""
    import pyarrow.types as types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_images(kind.field(place).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _label_column(path: Path) -> tuple[list[Any], tuple[str, ...] | None]:
    """Each row's class, and the class names if `datasets` stored them; no rows if there is no label column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = path.suffix.lower() == ".arrow"
    try:
        whole = _arrow(path) if arrow else None
        schema = pq.read_schema(path) if whole is None else whole.schema
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {})
        named = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
        column = named[0] if len(named) == 1 else "label"
        if column not in schema.names:
            return [], None
        table = pq.read_table(path, columns=[column]) if whole is None else whole
        classes = features.get(column, {}).get("names")
        return _valid(table.column(column)).to_pylist(), tuple(classes) if classes else None
    except (pa.ArrowException, OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read the classes in {path}: {reason(error)}") from error


@lru_cache(maxsize=2)  # one for x_in and one for the starts, which are read alternately
def _column(chunk: Chunk) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if chunk.path.suffix.lower() == ".arrow":
            return _valid(_arrow(chunk.path).column(chunk.column))
        with pq.ParquetFile(chunk.path) as parquet:
            return _valid(parquet.read_row_group(chunk.group, columns=[chunk.column]).column(0))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read {chunk.path}, row group {chunk.group}: {reason(error)}") from error
