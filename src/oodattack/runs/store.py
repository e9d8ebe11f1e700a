"""Create, resume and open run directories."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.runs.rows import SCHEMA
from oodattack.runs.run import Run
from oodattack.storage.directory import claim
from oodattack.storage.layout import Layout

NAME = "run.json"
FORMAT = 4  # since 4, digests of images are of their contents, and files have hashes
READABLE = (2, 3, FORMAT)
LAYOUT = Layout("run", FORMAT, documents={NAME: "run"}, tables={"shards/*.parquet": SCHEMA})
_SECTIONS = ("settings", "inputs", "environment")
_SINCE_FORMAT_3 = ("rows_per_shard", "half", "rough")


def open_run(path: Path) -> Run:
    """Open a run directory to read it.

    Raises:
        InputError: if it is not a run directory, or a run of an unknown format.

    >>> open_run(Path("no/such/run"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected a run directory with a run.json, got no/such/run; `oodattack attack` ...
    """
    file = Path(path) / NAME
    try:
        header = json.loads(file.read_text())
        version = header["format"]
        if version in READABLE:
            _check(header)
    except FileNotFoundError as error:
        raise InputError(
            f"expected a run directory with a {NAME}, got {path}; `oodattack attack` creates one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {file}: {error}; choose the directory of another run") from error
    if version not in READABLE:
        raise InputError(
            f"expected a run of format {FORMAT}, got {version!r} in {file}; use the version of oodattack that wrote it"
        )
    return Run(Path(path), header)


def find_run(path: Path) -> Run | None:
    """The run to resume in a directory, or None if no shard exists, so that nothing depends on its header.

    Raises:
        InputError: if the run there is damaged or of a format that can only be read.

    >>> find_run(Path("no/such/run")) is None
    True
    """
    if not (Path(path) / NAME).exists():
        return None
    run = open_run(path)
    version = run.header["format"]
    if version != FORMAT:
        raise InputError(
            f"expected a run of format {FORMAT} to resume, got format {version} in {path}, which can only be read;"
            " choose another --out"
        )
    return run if _has_shards(Path(path)) else None


@contextmanager
def start_run(path: Path, header: Mapping[str, Any]) -> Iterator[Run]:
    """Create a run directory or resume the existing one, and lock it for the duration of the block.

    Args:
        path: the directory.
        header: ``settings`` and ``inputs`` (mappings that must equal those of an existing run), ``rows``,
            ``batch_size``, ``rows_per_shard`` and ``environment``.

    Yields:
        The run, with the header that is on disk.

    Raises:
        InputError: if the directory contains a run with other settings or unrelated files, or is in use.

    >>> import tempfile
    >>> header = {"settings": {}, "inputs": {}, "rows": 10, "batch_size": 4, "rows_per_shard": 4, "environment": {}}
    >>> with tempfile.TemporaryDirectory() as folder, start_run(Path(folder), header) as run:
    ...     run.shard_count, list(run.shard_rows(2)), run.done()
    (3, [8, 9], [])
    """
    with claim(path, LAYOUT, header, is_begun=_is_begun) as found:
        yield Run(Path(path), found)


def _is_begun(path: Path) -> bool:
    # A run of an unknown format is reported as such, not as one with other settings.
    return _has_shards(path) and find_run(path) is not None


def _has_shards(path: Path) -> bool:
    return any(path.glob("shards/*.parquet"))


def _check(header: Mapping[str, Any]) -> None:
    missing = [key for key in _SINCE_FORMAT_3 if header["format"] >= 3 and key not in header]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    sizes = [header["rows"], header["batch_size"], header.get("rows_per_shard", header["batch_size"])]
    if not all(size > 0 for size in sizes):
        raise ValueError("it has no rows")
    if not all(isinstance(header[key], dict) for key in _SECTIONS):
        raise ValueError("its settings are missing")
