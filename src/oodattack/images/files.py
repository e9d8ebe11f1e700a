"""Image files: in a folder, matching a pattern, or named in a list."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import dicom
from oodattack.images.decode import decode, reason
from oodattack.images.labels import Labels, by_folder

_PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (*_PHOTOS, *dicom.SUFFIXES)


@dataclass(frozen=True)
class FileSource:
    """Image files, decoded one at a time on demand.

    Attributes:
        spec: the string that the user gave.
        names: sorted paths relative to `root`, with '/' as separator.
        root: the folder that the names are relative to.
    """

    spec: str
    names: tuple[str, ...]
    root: Path

    def __post_init__(self) -> None:
        try:
            "\n".join(self.names).encode()
        except UnicodeEncodeError as error:  # Linux allows any bytes in a file name; tables and JSON do not
            name = error.object[: error.end].rpartition("\n")[2]
            raise InputError(f"expected file names in UTF-8, got one that starts with {name!a}; rename it") from error

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`."""
        return decode(self.root / self.names[index])

    def labels(self, indices: Sequence[int]) -> Labels:
        """The name of each image's folder."""
        return by_folder(self.names, indices)

    def content(self, index: int) -> bytes:
        """The file's bytes."""
        path = self.root / self.names[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {reason(error)}") from error


def numbered(prefix: str, count: int) -> list[str]:
    """Generate names for unnamed images, zero-padded so that sorting keeps their order.

    >>> numbered("cifar10", 2)
    ['cifar10/00000', 'cifar10/00001']
    """
    width = max(5, len(str(count - 1)))
    return [f"{prefix}/{index:0{width}d}" for index in range(count)]


def size_in_bytes(path: Path) -> int:
    """The size of a file, or -1 if it does not exist or cannot be accessed.

    >>> size_in_bytes(Path("/no/such/file"))
    -1
    """
    try:
        return path.stat().st_size
    except OSError:
        return -1


def in_folder(folder: Path) -> list[str]:
    """List all files below a folder except hidden ones, relative to it, in a stable order.

    Symbolic links are followed, but no folder is visited twice, so link cycles terminate.

    Raises:
        InputError: if a folder cannot be read.
    """
    entered = set()
    found = []

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read folder {error.filename}: {reason(error)}") from error

    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(here).relative_to(folder)
        found += [(base / name).as_posix() for name in files if not name.startswith(".")]
    return found


def matching(pattern: str) -> tuple[Path, list[str]]:
    """Split a glob pattern into its fixed root folder and the matching files below it, except hidden ones.

    Raises:
        InputError: if the pattern is malformed.

    >>> matching("no/such/*.png")[1]
    []
    """
    parts = PurePath(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if is_pattern(part))
    root = Path(*parts[:fixed])
    try:
        paths = [path.relative_to(root) for path in root.glob(str(Path(*parts[fixed:]))) if path.is_file()]
    except (ValueError, OSError) as error:
        raise InputError(f"cannot use pattern {pattern}: {error}") from error
    return root, [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def is_pattern(text: str) -> bool:
    """Whether a path contains glob characters.

    >>> is_pattern("imgs/**/*.png"), is_pattern("imgs/a.png")
    (True, False)
    """
    return any(character in text for character in "*?[")


def listed(path: Path) -> Iterator[str]:
    """The paths in a text file, one per line; blank lines and # comments are skipped.

    Raises:
        InputError: if the file is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as a list of image paths: {reason(error)}") from error
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield PurePath(line.strip()).as_posix()


def is_image(path: Path) -> bool:
    """Whether a file is an image, judged by its suffix, or by the DICOM magic if it has no suffix.

    >>> is_image(Path("a/b.JPG")), is_image(Path("notes.md"))
    (True, False)
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    # Scanners name files by dotted numbers (1.2.840.113); the last part is not a suffix.
    if suffix and not suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as stream:
            return dicom.is_dicom(stream)
    except OSError:
        return False
