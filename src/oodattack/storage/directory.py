"""A directory that belongs to one command: created or resumed, by one process at a time."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from oodattack.core.errors import InputError
from oodattack.storage import hashes
from oodattack.storage.files import create_text, is_partial, remove_partials, write_text
from oodattack.storage.layout import Layout

_LOCK = ".lock"
_SHA_256 = r"\b[0-9a-f]{64}\b"


@contextmanager
def claim(
    path: Path, layout: Layout, header: Mapping[str, Any], *, is_begun: Callable[[Path], bool]
) -> Iterator[Mapping[str, Any]]:
    """Lock a directory, and write its header or compare it with the existing one.

    Args:
        path: the directory; created if it does not exist.
        layout: the files of the directory. Those without a recorded hash (`oodattack.storage.hashes`) receive one.
        header: JSON values, without ``format``, which the layout supplies. ``settings``, ``inputs`` and all other
            entries must equal those of an existing header, except for ``environment``: if that differs, a warning is
            issued.
        is_begun: whether the directory contains results. Until it does, a new header replaces the existing one.

    Yields:
        The header that is now on disk: the given one or, if results exist, the one that they were computed with.

    Raises:
        InputError: if the directory contains results with other settings or unrelated files, is in use, or cannot be
            written to.

    >>> import tempfile
    >>> layout = Layout("run", 4, {"a.json": "run"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with claim(Path(folder), layout, {"rows": 3}, is_begun=lambda _: False) as header:
    ...         header
    {'format': 4, 'rows': 3}
    """
    path = Path(path)
    with _locked(path):
        file, noun = path / layout.header, layout.noun
        others = sorted(p.name for p in path.iterdir() if p.name not in (_LOCK, file.name) and not is_partial(p))
        if others and not file.exists():
            raise InputError(
                f"expected a new or empty directory, or that of an earlier {noun}, got {path} with {others[0]} and no"
                f" {file.name}; choose another --out"
            )
        remove_partials(path)
        found = _settle(file, {"format": layout.format, **header}, noun, replaceable=not is_begun(path))
        hashes.settle(path, layout.files(path))
        yield found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Create a directory and lock it for the duration of the block."""
    if path.exists() and not path.is_dir():
        raise InputError(f"expected a directory to write to, got the file {path}; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{path} is in use by another process; wait for it or choose another --out") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {path}: {reason}; choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _settle(file: Path, header: Mapping[str, Any], noun: str, *, replaceable: bool) -> Mapping[str, Any]:
    """Create the header, or adopt the one that exists, or replace it while nothing depends on it."""
    text = json.dumps(header, indent=2) + "\n"
    if create_text(file, text):
        return header
    if replaceable:
        if file.read_bytes() != text.encode():
            hashes.forget(file.parent, file)
            write_text(file, text)
        return header
    try:
        existing: dict[str, Any] = json.loads(file.read_text())
        theirs = decisive(existing)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read {file}: {error}; choose another --out") from error
    ours = decisive(json.loads(text))
    differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    if differing:
        what = "; ".join(_difference(key, noun, theirs.get(key), ours.get(key)) for key in differing)
        raise InputError(
            f"the {noun} in {file.parent} has other settings ({what}); choose another --out or give the same settings"
        )
    _warn_of_another_machine(file.parent, noun, existing.get("environment", {}), header.get("environment", {}))
    return existing


def _difference(key: str, noun: str, theirs: Any, ours: Any) -> str:
    if re.search(_SHA_256, f"{theirs} {ours}"):  # digests mean nothing to a reader
        return f"{key}: changed since the {noun} began"
    return f"{key}: the {noun} has {theirs!r}, this command has {ours!r}"


def _warn_of_another_machine(path: Path, noun: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [f"{key} {then[key]!r}, now {now[key]!r}" for key in now if key in then and then[key] != now[key]]
    if changed:
        warnings.warn(
            f"{path} was begun in another environment ({'; '.join(changed)}): its results may differ in the last"
            f" digits from those of an uninterrupted {noun}",
            stacklevel=2,
        )


def decisive(header: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a header that must agree between two commands for one directory, with dotted names.

    >>> decisive({"rows": 3, "settings": {"eps": 5}, "environment": {"torch": "2"}})
    {'rows': 3, 'settings.eps': 5}
    """
    found: dict[str, Any] = {}
    for key, value in header.items():
        if key in ("settings", "inputs"):
            found.update({f"{key}.{name}": inner for name, inner in value.items()})
        elif key != "environment":
            found[key] = value
    return found
