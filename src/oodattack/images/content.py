"""Digests of images by their content."""

import hashlib
from collections.abc import Iterable

from oodattack.core.errors import InputError
from oodattack.images.sources import ImageSource


def digest(source: ImageSource, indices: Iterable[int]) -> str:
    """SHA-256 (hex) of the names and the stored contents of some images of a source.

    Every image is read once more than the work itself needs, but not decoded: about a second per gigabyte of files that
    the system has in its cache. Images that cannot be read count as such.

    Args:
        source: the images.
        indices: the images that are used; order and repetitions do not matter.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from oodattack.images import open_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file, digests = Path(folder, "a.png"), []
    ...     for content in (b"same size", b"same size", b"as before"):
    ...         _ = file.write_bytes(content)
    ...         digests.append(digest(open_images(folder), [0]))
    >>> digests[0] == digests[1], digests[0] == digests[2]
    (True, False)
    """
    total = hashlib.sha256()
    for index in sorted(set(indices)):
        try:
            content = hashlib.sha256(source.content(index)).digest()
        except InputError:
            content = b""
        total.update(source.names[index].encode() + b"\0" + content + b"\n")
    return total.hexdigest()
