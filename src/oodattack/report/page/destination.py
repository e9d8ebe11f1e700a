"""The two forms of a page: a folder with images and one script per row, or one file that contains everything."""

import base64
import hashlib
import io
import json
import re
import zlib
from pathlib import Path
from typing import Protocol

from markupsafe import Markup
from PIL import Image

from oodattack.core.errors import WriteError
from oodattack.report.page.environment import script_json
from oodattack.storage.files import write_text

THUMBNAIL_SIDE = 96
THUMBNAIL_BYTES = 1800  # so that 1,000 rows of three images stay below 10 MB
INLINE_BYTES = 4000  # of a PNG that is shown as it is within a row; larger ones become thumbnails
FULL_BYTES = 5_000_000  # of PNGs, that a page of one file contains as they are
ROWS_PER_BLOCK = 50  # details of rows that are compressed together
_PLACEHOLDER = re.compile(r' src="image:([\w-]+)"')  # no text can contain it, because quotes in text are escaped


class Destination(Protocol):
    """Where a page goes. Images and details of rows are added first; the page itself is written last.

    Attributes:
        compact: whether charts should be small.
        full: whether images are the PNGs as they are, and not thumbnails; known once all are added.
    """

    compact: bool
    full: bool

    def image(self, png: bytes) -> str:
        """Add an image, and return its address within the page."""

    def thumbnail(self, png: bytes) -> str:
        """Add an image that is shown small, and return its address within the page."""

    def inline(self, png: bytes) -> str:
        """Add an image that one row alone shows, small, and return its address within the row."""

    def row(self, number: int, html: str) -> None:
        """Add what the panel of a row shows."""

    def embedded(self) -> Markup:
        """What the page itself has to contain."""

    def write(self, html: str) -> Path:
        """Write the page, after everything that it refers to."""


class Folder:
    """A page in a folder: ``index.html``, ``images/…`` and ``rows/N.js``, which are read when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.compact = False
        self.full = True
        self.folder = folder
        self.written: set[Path] = set()

    def image(self, png: bytes) -> str:
        """The image as it is, under its digest: an image that many rows share is written once."""
        name = f"images/{_digest(png)}.png"
        path = self.folder / name
        if path not in self.written and not (path.exists() and path.stat().st_size == len(png)):
            _write(path, png)
        self.written.add(path)
        return name

    def thumbnail(self, png: bytes) -> str:
        """The same as `image`: the browser makes it small."""
        return self.image(png)

    def inline(self, png: bytes) -> str:
        """A data URL, because a page of an audit has more such images than a folder should have files."""
        return _data_url(png, "png") if len(png) <= INLINE_BYTES else _data_url(thumbnail(png), "webp")

    def row(self, number: int, html: str) -> None:
        """One script per row, which hands the row to the page."""
        path = self.folder / "rows" / f"{number}.js"
        _write(path, f"oodattackRow({number}, {script_json(html)});\n".encode())
        self.written.add(path)

    def embedded(self) -> Markup:
        """Nothing: everything is in files."""
        return Markup("")

    def write(self, html: str) -> Path:
        """Write ``index.html``, then delete the images and rows of an earlier page."""
        path = self.folder / "index.html"
        write_text(path, html)
        for old in {*self.folder.glob("images/*.png"), *self.folder.glob("rows/*.js")} - self.written:
            old.unlink(missing_ok=True)
        return path


class SingleFile:
    """A page in one file, with thumbnails as data URLs, and the PNGs themselves if they are small enough together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compact = True
        self.full = True
        self._images: dict[str, str] = {}  # data URLs by name; that of a thumbnail ends in -t
        self._png_bytes = 0
        self._rows: list[tuple[int, str]] = []

    def image(self, png: bytes) -> str:
        """The name of the image, which `write` and the script of the page replace by a data URL."""
        name = self.thumbnail(png).removesuffix("-t")
        if self.full and name not in self._images:
            self._images[name] = _data_url(png, "png")
            self._png_bytes += len(png)
            if self._png_bytes > FULL_BYTES:
                self.full = False
                self._images = {key: url for key, url in self._images.items() if key.endswith("-t")}
        return name

    def thumbnail(self, png: bytes) -> str:
        """The name of the thumbnail."""
        name = f"image:{_digest(png)}-t"
        if name not in self._images:
            self._images[name] = _data_url(thumbnail(png), "webp")
        return name

    def inline(self, png: bytes) -> str:
        """The same as `thumbnail`."""
        return self.thumbnail(png)

    def row(self, number: int, html: str) -> None:
        """Keep the row for `embedded`."""
        self._rows.append((number, html))

    def embedded(self) -> Markup:
        """The images by name, and the rows in compressed blocks."""
        images = {name.removeprefix("image:"): url for name, url in self._images.items()}
        parts = [Markup('<script type="application/json" id="image-data">{}</script>').format(script_json(images))]
        for start in range(0, len(self._rows), ROWS_PER_BLOCK):
            rows = self._rows[start : start + ROWS_PER_BLOCK]
            packed = base64.b64encode(zlib.compress(json.dumps(rows).encode(), 9)).decode()
            parts.append(Markup('<script type="text/plain" data-from="{}">{}</script>').format(rows[0][0], packed))
        return Markup("\n").join(parts)

    def write(self, html: str) -> Path:
        """Write the file."""

        def resolve(found: re.Match[str]) -> str:
            name = f"image:{found[1]}"
            return f' src="{self._images.get(name) or self._images[name + "-t"]}"'

        write_text(self.path, _PLACEHOLDER.sub(resolve, html))
        return self.path


def thumbnail(png: bytes) -> bytes:
    """An image as WebP, at most 96 pixels wide and high and, if a lower quality can do it, at most 1,800 bytes.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (300, 200)).save(file, "PNG")
    >>> Image.open(io.BytesIO(thumbnail(file.getvalue()))).size
    (96, 64)
    """
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    for quality in (75, 40, 15, 0):
        file = io.BytesIO()
        small.save(file, "WEBP", quality=quality, method=2)
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return file.getvalue()


def _digest(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()[:16]


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _write(path: Path, data: bytes) -> None:
    """Write a file that nothing refers to yet, because the page is written last; it need not survive a power cut."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
