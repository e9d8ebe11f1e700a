"""SHA-256 of the files in a directory, recorded when they are written.

The hash of ``shards/00000.parquet`` is in ``hashes/shards/00000.parquet.sha256``, in the format of ``sha256sum``: a
file of its own, so that several processes can record theirs at once. It is written after the file, and removed before
the file is replaced. A process that dies in between leaves a file without a hash, never with a wrong one; `settle` adds
what is missing when the command resumes.

Hashes reveal damage and careless edits. They are not signatures: whoever changes a file can also change its hash.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.storage.files import write_text

FOLDER = "hashes"
_SUFFIX = ".sha256"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        InputError: if it cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(b"")
    ...     sha256_of(Path(folder, "a"))[:8]
    'e3b0c442'
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def record(root: Path, file: Path) -> None:
    """Record the hash of a new file below the directory ``root``.

    Raises:
        WriteError: if it cannot be written.
    """
    name = file.relative_to(root).as_posix()
    write_text(_place(root, name), f"{sha256_of(file)}  {name}\n")


def forget(root: Path, file: Path) -> None:
    """Remove the hash of a file that is about to be replaced or deleted."""
    _place(root, file.relative_to(root).as_posix()).unlink(missing_ok=True)


@contextmanager
def replacing(root: Path, file: Path) -> Iterator[None]:
    """Record the hash of a file that the block writes or replaces; during the block, the file has none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder), Path(folder, "a.txt")):
    ...         write_text(Path(folder, "a.txt"), "hello")
    ...     list(recorded(Path(folder)))
    ['a.txt']
    """
    forget(root, file)
    yield
    record(root, file)


def settle(root: Path, files: Iterable[Path]) -> None:
    """Record the hashes that are missing, and remove those of files that no longer exist.

    Args:
        root: the directory. No other process may be writing to it.
        files: the files that should have a hash.
    """
    known = recorded(root)
    for file in files:
        if file.relative_to(root).as_posix() not in known:
            record(root, file)
    for name in known:
        if not (root / name).exists():
            forget(root, root / name)


def recorded(root: Path) -> dict[str, str]:
    """The recorded hashes by the name of the file, relative to the directory; a malformed one is empty."""
    folder = root / FOLDER
    found = {}
    for path in sorted(folder.rglob(f"*{_SUFFIX}")):
        digest = re.match(rb"[0-9a-f]{64}\b", path.read_bytes())
        name = path.relative_to(folder).as_posix().removesuffix(_SUFFIX)
        found[name] = "" if digest is None else digest[0].decode()
    return found


def _place(root: Path, name: str) -> Path:
    return root / FOLDER / (name + _SUFFIX)
