"""A directory that belongs to one command: made, or gone on with, by one process at a time."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from oodattack.core.errors import InputError
from oodattack.storage.files import PARTIAL, write_text

DIGEST = r"\b[0-9a-f]{64}\b"  # a SHA-256, which tells a person nothing


@contextmanager
def claim(
    path: Path, name: str, header: Mapping[str, Any], *, is_begun: Callable[[Path], bool]
) -> Iterator[Mapping[str, Any] | None]:
    """Take a directory: write its header, or compare it with the one that is there.

    Args:
        path: the directory; made if need be.
        name: file of the header.
        header: JSON values. ``settings``, ``inputs`` and plain entries must be those of the directory that is there;
            another ``environment`` is warned of.
        is_begun: whether the directory holds results, which other settings would spoil.

    Yields:
        The header that is there, where results are, else None; nobody else writes to the directory meanwhile.

    Raises:
        InputError: if the directory holds results of other settings, or other files, or is in use, or cannot be
            written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with claim(Path(folder), "a.json", {}, is_begun=lambda _: False) as there:
    ...         there is None
    True
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"expected a directory to write to, got the file {path}; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{path} is in use by another process; wait for it or choose another --out") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {path}: {reason}; choose another --out") from error
    try:
        yield _take(path, name, header, is_begun)
    finally:
        lock.release()


def _take(
    path: Path, name: str, header: Mapping[str, Any], is_begun: Callable[[Path], bool]
) -> Mapping[str, Any] | None:
    file = path / name
    strangers = sorted({p.name for p in path.iterdir()} - {".lock", name + PARTIAL})
    if strangers and not file.exists():
        raise InputError(
            f"expected a new or empty directory, or a run, got {path} with {strangers[0]} and no {name};"
            " choose another --out"
        )
    if not is_begun(path):  # nothing is lost by other settings
        write_text(file, json.dumps(header, indent=2) + "\n")
        return None
    try:
        there: dict[str, Any] = json.loads(file.read_text())
        theirs = flat(there)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read {file}: {error}; choose another --out") from error
    ours = flat(json.loads(json.dumps(header)))
    differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    if differing:
        what = "; ".join(_difference(key, theirs.get(key), ours.get(key)) for key in differing)
        raise InputError(f"{path} holds a run of other settings ({what}); choose another --out or the run's settings")
    then, now = there.get("environment", {}), header.get("environment", {})
    changed = [f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in now if then.get(key) != now.get(key)]
    if changed:
        warnings.warn(
            f"{path} was begun elsewhere ({'; '.join(changed)}): its rows may differ in the last digits from those"
            " of an uninterrupted run",
            stacklevel=2,
        )
    return there


def _difference(key: str, theirs: Any, ours: Any) -> str:
    if re.search(DIGEST, f"{theirs} {ours}"):
        return f"{key}: not what the run was begun with"
    return f"{key}: the run has {theirs!r}, you ask for {ours!r}"


def flat(header: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree between two commands for one directory, as dotted names.

    >>> flat({"rows": 3, "settings": {"eps": 5}, "environment": {"torch": "2"}})
    {'rows': 3, 'settings.eps': 5}
    """
    found: dict[str, Any] = {}
    for key, value in header.items():
        if key in ("settings", "inputs"):
            found.update({f"{key}.{name}": inner for name, inner in value.items()})
        elif key != "environment":
            found[key] = value
    return found
