"""Open any collection of images from one string."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Protocol

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import arrays, files, idx, public, tables
from oodattack.images.decode import reason
from oodattack.images.labels import Labels

LIST_SUFFIXES = (".txt", ".lst")


class ImageSource(Protocol):
    """A collection of images, read one at a time."""

    @property
    def spec(self) -> str:
        """The string that the user gave."""

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per image, sorted and reproducible."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`; raises InputError if it cannot be decoded."""

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """The classes of these images, or None if the source has no labels."""

    def content(self, index: int) -> bytes:
        """What is stored of image `index`, not decoded if possible; InputError if it cannot be read."""


def open_images(spec: str | Path, *, data_root: Path | None = None, download: bool = False) -> ImageSource:
    """Open a collection of images. Images are decoded only when they are read.

    Args:
        spec: a folder (searched recursively), an image file, a .txt or .lst file of paths, a glob pattern,
            a Parquet or Arrow file (or a folder or pattern of them), a file in MNIST's idx format, a NumPy array
            file (or the folder that contains it), or `torchvision:NAME[:SPLIT]`.
        data_root: the folder of torchvision's data sets; defaults to `data`.
        download: whether torchvision may download a missing data set.

    Raises:
        InputError: if no images are found; the message says what was expected.

    >>> import tempfile, torch
    >>> from oodattack.images import encode_png
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.png").write_bytes(encode_png(torch.zeros(3, 4, 5, dtype=torch.uint8)))
    ...     source = open_images(folder)
    ...     source.names, source.read(0).shape
    (('a.png',), torch.Size([3, 4, 5]))
    """
    text = str(spec)
    if text.startswith(public.PREFIX):
        return public.open_public(text, data_root or Path("data"), download=download)
    path = Path(text)
    try:
        is_folder, is_file = path.is_dir() and text != "", path.is_file()
    except OSError as error:
        raise InputError(f"cannot read {text}: {reason(error)}") from error
    if is_file:
        return _open_file(text, path)
    if is_folder:
        root, found = path, files.in_folder(path)
    elif files.is_pattern(text):
        root, found = files.matching(text)
    else:
        hint = f"did you mean {' or '.join(near(path))}?" if near(path) else "it does not exist"
        raise InputError(f"expected a folder, file, pattern or {public.PREFIX}NAME, got {text!r}; {hint}")
    return _open_many(text, root, found)


def _open_file(spec: str, path: Path) -> ImageSource:
    if path.suffix.lower() in tables.SUFFIXES:
        return tables.open_tables(spec, path.parent, [path.name])
    if _is_array(path.name):
        return _open_array(spec, path)
    if path.suffix.lower() not in LIST_SUFFIXES:
        return files.FileSource(spec, (path.name,), path.parent)
    names = tuple(sorted(set(files.listed(path))))
    if not names:
        raise InputError(f"expected one image path per line in {path}, got none")
    return files.FileSource(spec, names, path.parent)


def _open_many(spec: str, root: Path, found: list[str]) -> ImageSource:
    images = sorted(name for name in found if files.is_image(root / name))
    rows = [name for name in found if _is_table(name)]
    if images and rows:
        patterns = [str(root / "**" / f"*{PurePath(name).suffix}") for name in (images[0], rows[0])]
        raise InputError(f"expected images or tables in {spec}, got both; open {' or '.join(patterns)}")
    if rows:
        return tables.open_tables(spec, root, rows)
    if images:
        return files.FileSource(spec, tuple(images), root)
    stacks = sorted(name for name in found if _is_array(name) and PurePath(name).name != arrays.LABELS)
    if len(stacks) == 1:
        return _open_array(spec, root / stacks[0])
    if stacks:
        raise InputError(f"expected one file of many images in {spec}, got {len(stacks)}; name one: {root / stacks[0]}")
    what = f"{len(found)} other files" if found else "no files at all"
    known = " ".join((*files.SUFFIXES, *tables.SUFFIXES, *idx.SUFFIXES, arrays.SUFFIX))
    raise InputError(f"expected images in {spec}, got {what}; supported are {known}")


def _is_array(name: str) -> bool:
    return idx.is_idx(name) or name.endswith(arrays.SUFFIX)


def _open_array(spec: str, path: Path) -> ImageSource:
    return idx.open_idx(spec, path) if idx.is_idx(path.name) else arrays.open_array(spec, path)


def _is_table(name: str) -> bool:
    # `datasets` caches the results of maps and shuffles next to the data, in files of the same format.
    path = PurePath(name)
    return path.suffix.lower() in tables.SUFFIXES and not path.name.startswith("cache-")


def near(path: Path) -> list[str]:
    """Existing files in the same folder whose names resemble that of a missing one.

    >>> near(Path("/no/such/folder"))
    []
    """
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, names)]


def evenly(total: int, limit: int) -> list[int]:
    """Choose at most ``limit`` evenly spaced indices out of ``total``.

    >>> evenly(10, 4)
    [0, 2, 5, 7]
    """
    limit = min(limit, total)
    return [i * total // limit for i in range(limit)]


def shuffled(total: int, seed: int) -> list[int]:
    """All indices below ``total`` in a random order that depends only on the seed.

    The order is that of hashes, so it is the same with every version of every library.

    >>> shuffled(5, 0), sorted(shuffled(5, 1))
    ([4, 0, 2, 1, 3], [0, 1, 2, 3, 4])
    """
    return sorted(range(total), key=lambda index: hashlib.sha256(f"{seed}/{index}".encode()).digest())
