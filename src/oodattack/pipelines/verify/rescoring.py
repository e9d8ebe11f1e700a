"""What a stored image must be: a PNG of 8 bits, inside its ball."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import ROUNDING
from oodattack.encoders import Encoder
from oodattack.images import decode
from oodattack.images.png import png_header
from oodattack.pipelines.verify.findings import EXPECTED, Findings

MAPE_SCALE = 0.01  # float rounding alone changes a MAPE by up to 1e-5, however small it is


def is_same_encoder(file: str, stored: str, encoder: Encoder, findings: Findings) -> bool:
    """Whether an encoder is the one of the directory; if it is not, nothing can be scored again."""
    measured = encoder.digest()
    findings.equal(file, "SHA-256 of the encoder", stored, measured, words=("recorded", "of this encoder"))
    if stored != measured:
        findings.unchecked.append("no image was scored again: the encoder is another one")
    return stored == measured


def checked_image(
    file: str, row: int, name: str, cell: Mapping[str, Any] | None, size: tuple[int, int], findings: Findings
) -> Tensor | None:
    """The pixels (3, H, W) uint8 of a stored image; None if it is no PNG file of this size that can be decoded."""
    png = (cell or {}).get("bytes") or b""
    try:
        header = png_header(png)
        pixels = decode(png)
    except InputError as error:
        findings.differ(file, name, str(error), "a PNG image", row, words=EXPECTED)
        return None
    findings.equal(file, f"bits of {name}", header.bits, 8, row, words=EXPECTED)
    findings.equal(file, f"colours of {name}", header.colour, "RGB", row, words=EXPECTED)
    findings.equal(file, f"size of {name}", header.size, size, row, words=EXPECTED)
    return pixels if tuple(pixels.shape[1:]) == size else None


def check_ball(file: str, row: int, eps: float, distance: float, findings: Findings) -> None:
    """Check that an image lies in the ball around its stored start, up to rounding.

    >>> from pathlib import Path
    >>> found = Findings(Path("run"), "run")
    >>> for distance in (5.0, 5.000004, 5.01, float("nan")):
    ...     check_ball("shards/00000.parquet", 0, 5.0, distance, found)
    >>> [difference.measured for difference in found.differences]
    [5.01, nan]
    """
    if not distance <= eps * (1 + ROUNDING):
        findings.differ(
            file, "distance from the start", f"at most eps = {eps:g}", distance, row, words=("allowed", "measured")
        )
