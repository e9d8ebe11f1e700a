"""Where the attack starts: one image for all x_in, or many in turn."""

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.files import is_pattern, size_in_bytes
from oodattack.images.generated import KINDS, generate
from oodattack.images.public import PREFIX
from oodattack.images.shape import check_size, encode_png, fit
from oodattack.images.sources import ImageSource, near, open_images


class StartSource(Protocol):
    """Start images, one for each x_in."""

    @property
    def spec(self) -> str:
        """What the user wrote."""

    @property
    def name(self) -> str:
        """The same, short, and good as a file name."""

    def get(self, index: int) -> tuple[str, Tensor]:
        """Name and image, uint8 `(3, h, w)`, of the start for the x_in number `index`."""

    def digest(self) -> str:
        """SHA-256 in hex: another value means other start images."""


@dataclass(frozen=True, eq=False)
class OneStart:
    """The same start for every x_in, decoded once."""

    spec: str
    name: str
    label: str
    image: Tensor

    def get(self, index: int) -> tuple[str, Tensor]:  # noqa: ARG002 - the same for all
        """Name and image of the start, uint8 `(3, h, w)`."""
        return self.label, self.image

    def digest(self) -> str:
        """SHA-256 over the pixels."""
        return hashlib.sha256(encode_png(self.image)).hexdigest()


@dataclass(frozen=True)
class ManyStarts:
    """Starts in turn, or drawn by lot."""

    spec: str
    name: str
    source: ImageSource
    size: tuple[int, int]
    seed: int
    order: Literal["cycle", "sample"]

    def get(self, index: int) -> tuple[str, Tensor]:
        """Name and image, uint8 `(3, h, w)`, of the start for the x_in number `index`."""
        if self.order == "sample":
            # A hash, not a generator: a lot depends neither on other calls nor on a library's version.
            index = int.from_bytes(hashlib.sha256(f"{self.seed}/{index}".encode()).digest())
        index %= len(self.source)
        return self.source.names[index], fit(self.source.read(index), self.size)

    def digest(self) -> str:
        """SHA-256 over the source, the size and the order."""
        told = f"{self.source.digest()}\0{self.size}\0{self.order}"
        return hashlib.sha256((told + f"\0{self.seed}" * (self.order == "sample")).encode()).hexdigest()


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
            file or collection. A file named noise is meant by `./noise`, or by a `Path`.
        size: `(h, w)` in pixels of the images to hand out.
        seed: of the noise, and of the lots.
        order: many images in turn ("cycle"), or drawn by lot for each index ("sample").
        data_root: the folder of torchvision's data sets; `data` if omitted.
        download: whether torchvision may fetch a data set that is not there.

    Raises:
        InputError: if there is no such start, or a single one cannot be decoded.

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
    return f"expected a file, folder or generated start, got {spec!r}; {hint}Generated are {', '.join(KINDS)}"
