"""Start images of the attack: one for all x_in, or several used in turn."""

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.content import digest
from oodattack.images.files import is_pattern, size_in_bytes
from oodattack.images.generated import KINDS, generate
from oodattack.images.public import PREFIX
from oodattack.images.shape import check_size, encode_png, fit
from oodattack.images.sources import ImageSource, near, open_images


class StartSource(Protocol):
    """Start images, one per x_in."""

    @property
    def spec(self) -> str:
        """The string that the user gave."""

    @property
    def name(self) -> str:
        """A short form of `spec` that is safe as a file name."""

    def get(self, index: int) -> tuple[str, Tensor]:
        """Name and image, uint8 `(3, h, w)`, of the start for x_in number `index`."""

    def digest(self, count: int) -> str:
        """SHA-256 (hex) of the starts for the first `count` x_in; another value means other start images."""


@dataclass(frozen=True, eq=False)
class OneStart:
    """The same start for every x_in, decoded once."""

    spec: str
    name: str
    label: str
    image: Tensor

    def get(self, index: int) -> tuple[str, Tensor]:  # noqa: ARG002 - every x_in has the same start
        """Name and image of the start, uint8 `(3, h, w)`."""
        return self.label, self.image

    def digest(self, count: int) -> str:  # noqa: ARG002 - every x_in has the same start
        """SHA-256 of the PNG-encoded start."""
        return hashlib.sha256(encode_png(self.image)).hexdigest()


@dataclass(frozen=True)
class ManyStarts:
    """Several starts, used in turn or drawn at random."""

    spec: str
    name: str
    source: ImageSource
    size: tuple[int, int]
    seed: int
    order: Literal["cycle", "sample"]

    def get(self, index: int) -> tuple[str, Tensor]:
        """Name and image, uint8 `(3, h, w)`, of the start for x_in number `index`."""
        place = self._place(index)
        return self.source.names[place], fit(self.source.read(place), self.size)

    def _place(self, index: int) -> int:
        """Which image of the source is the start for x_in number `index`."""
        if self.order == "sample":
            # A hash, unlike a generator, depends neither on other calls nor on a library's version.
            index = int.from_bytes(hashlib.sha256(f"{self.seed}/{index}".encode()).digest())
        return index % len(self.source)

    def digest(self, count: int) -> str:
        """SHA-256 of the images that are used, their number in the source, the size and the order."""
        used = digest(self.source, map(self._place, range(count)))
        identity = f"{used}\0{len(self.source)}\0{self.size}\0{self.order}"
        return hashlib.sha256((identity + f"\0{self.seed}" * (self.order == "sample")).encode()).hexdigest()


def open_starts(
    spec: str | Path,
    *,
    size: tuple[int, int],
    seed: int = 0,
    order: Literal["cycle", "sample"] = "cycle",
    data_root: Path | None = None,
    download: bool = False,
) -> StartSource:
    """Open start images: an image file, anything `open_images` reads, or a generated image.

    Args:
        spec: `noise`, `noise:gaussian`, `spiral`, `spiral:gray`, `checkerboard:RxC`, `solid:COLOUR`, or a
            file or collection. To open a file named noise, pass `./noise` or a `Path`.
        size: `(h, w)` in pixels of the images returned.
        seed: seed of the noise and of the random order.
        order: use several images in turn ("cycle"), or draw one at random for each index ("sample").
        data_root: the folder of torchvision's data sets; defaults to `data`.
        download: whether torchvision may download a missing data set.

    Raises:
        InputError: if the start does not exist, or is a single image that cannot be decoded.

    >>> start = open_starts("checkerboard:8x8", size=(224, 224))
    >>> start.name, start.get(3)[1].shape
    ('checkerboard-8x8', torch.Size([3, 224, 224]))
    """
    check_size(size)
    if order not in ("cycle", "sample"):
        raise InputError(f"expected order cycle or sample, got {order!r}")
    text = str(spec)
    image = generate(text, size, seed) if isinstance(spec, str) else None
    if image is not None:
        return OneStart(text, _slug(text), text, image)
    path = Path(text)
    if isinstance(spec, str) and not (text.startswith(PREFIX) or is_pattern(text) or size_in_bytes(path) >= 0):
        raise InputError(_unknown(text))
    source = open_images(spec, data_root=data_root, download=download)
    name = _slug(path.stem if path.is_file() else path.resolve().name if path.is_dir() else text)
    if len(source) == 1:
        return OneStart(text, name, source.names[0], fit(source.read(0), size))
    return ManyStarts(text, name, source, size, seed, order)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "start"


def _unknown(spec: str) -> str:
    kinds = {kind.partition(":")[0]: kind for kind in KINDS}
    hints = [kinds[key] for key in difflib.get_close_matches(spec.partition(":")[0].lower(), kinds)] + near(Path(spec))
    hint = f"did you mean {' or '.join(hints)}? " if hints else ""
    return f"expected a file, folder or generated start, got {spec!r}; {hint}Generated starts: {', '.join(KINDS)}"
