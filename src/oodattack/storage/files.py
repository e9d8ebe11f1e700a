"""Files that appear whole or not at all, even when several processes write the same one."""

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from oodattack.core.errors import WriteError

if TYPE_CHECKING:
    from torch import Tensor

_PARTIAL = re.compile(r"\.\d+-[0-9a-f]{16}\.partial")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file, replacing any file of that name.

    ``write`` fills a temporary file with a unique name beside ``path``, which is synced to disk and then renamed. A
    process that dies meanwhile leaves at most the temporary file (`is_partial`). If several processes write the same
    file, the last one wins.

    Raises:
        WriteError: if the file cannot be written (no space, no permission).
    """
    with _partial(path, write) as partial:
        partial.replace(path)


def create_whole(path: Path, write: Callable[[Path], None]) -> bool:
    """Write a file as `write_whole` does, unless a file of that name exists: of several writers, the first one wins.

    Returns:
        Whether this call created the file. If not, the other writer's file is complete and was left as it is.

    Raises:
        WriteError: if the file cannot be written (no space, no permission).
    """
    with _partial(path, write) as partial:
        try:
            os.link(partial, path)  # unlike a rename, fails if the name exists
        except FileExistsError:
            return False
        except OSError:
            # A file system without hard links. Checking first leaves a window in which two writers may both succeed;
            # even then the file is whole.
            if path.exists():
                return False
            partial.replace(path)
    return True


def is_partial(path: Path) -> bool:
    """Whether a file is the temporary file of a writer that is still running, or that died.

    >>> is_partial(Path("run/shards/.4711-0123456789abcdef.partial")), is_partial(Path("film.mp4.partial"))
    (True, False)
    """
    return _PARTIAL.fullmatch(path.name) is not None


def remove_partials(folder: Path) -> None:
    """Delete temporary files anywhere below a folder. No process may be writing to it meanwhile."""
    for path in folder.rglob(".*.partial"):
        if is_partial(path):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "a.txt", "hello")
    ...     (Path(folder) / "a.txt").read_text()
    'hello'
    """
    write_bytes(path, text.encode())


def create_text(path: Path, text: str) -> bool:
    """Write a text file whole unless it exists; returns whether this call created it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     created = [create_text(Path(folder) / "a.txt", text) for text in ("mine", "yours")]
    ...     created, (Path(folder) / "a.txt").read_text()
    ([True, False], 'mine')
    """
    return create_whole(path, lambda partial: _write(partial, text.encode()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file whole."""
    write_whole(path, lambda partial: _write(partial, data))


def write_torch(path: Path, value: object) -> None:
    """Write a value with `torch.save`, whole.

    It is serialised in memory first: on a full disk, torch's own writer raises a RuntimeError and leaves half a file.
    """
    import torch

    buffer = BytesIO()
    torch.save(value, buffer)
    write_bytes(path, buffer.getvalue())


def write_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write a state dict as safetensors, whole; serialised in memory first, as in `write_torch`."""
    from safetensors.torch import save

    write_bytes(path, save({name: value.contiguous() for name, value in state.items()}))


@contextmanager
def _partial(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file beside ``path``, written and synced; the caller renames or links it to ``path``."""
    # The name does not contain that of ``path``, which may already be as long as the file system allows. The leading
    # dot hides it from readers of whole folders (pyarrow, datasets).
    partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        yield partial
        partial.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"cannot write {path}: {reason}; what was written before is kept. Fix this and repeat the command to resume"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync_directory(path: Path) -> None:
    """Make a new name survive a power cut, on systems that can sync a directory."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync files only
            raise
    finally:
        os.close(descriptor)
