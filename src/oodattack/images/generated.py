"""Generated start images: noise, spiral, checkerboard, solid colour."""

import math
import re

import torch
from PIL import ImageColor
from torch import Tensor

from oodattack.core.errors import InputError

KINDS = ("noise", "noise:gaussian", "spiral", "spiral:gray", "checkerboard:RxC", "solid:COLOUR")


def generate(spec: str, size: tuple[int, int], seed: int) -> Tensor | None:
    """Generate the start image with the given name, or return None if no generator has that name.

    Args:
        spec: one of `KINDS`, with numbers for R and C and a colour name or #rrggbb for COLOUR.
        size: `(h, w)` in pixels.
        seed: seed of the noise; the other images do not depend on it.

    Returns:
        uint8 `(3, h, w)`, RGB.

    Raises:
        InputError: if the name is known but its option is not.

    >>> generate("checkerboard:2x2", (2, 2), seed=0)[0].tolist()
    [[0, 255], [255, 0]]
    >>> generate("solid:#ff8000", (1, 1), seed=0).flatten().tolist()
    [255, 128, 0]
    """
    kind, colon, option = spec.partition(":")
    match kind, colon + option:
        case "noise", "":
            return torch.randint(0, 256, (3, *size), generator=_random(seed), dtype=torch.uint8)
        case "noise", ":gaussian":
            return _bytes(0.5 + 0.25 * torch.randn(3, *size, generator=_random(seed)))
        case "spiral", "":
            return _spiral(size, colours=True)
        case "spiral", ":gray":
            return _spiral(size, colours=False)
        case "checkerboard", _:
            return _checkerboard(option, size)
        case "solid", _:
            return _solid(option, size)
        case (("noise" | "spiral"), _):
            raise InputError(f"expected one of {', '.join(KINDS)}, got {spec!r}")
    return None


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _spiral(size: tuple[int, int], *, colours: bool) -> Tensor:
    """Two arms, three turns, channels a third of a wave apart, fading to grey at the centre where the arms meet."""
    h, w = size
    y = (torch.arange(h) - (h - 1) / 2)[:, None] / min(h, w) * 2
    x = (torch.arange(w) - (w - 1) / 2)[None] / min(h, w) * 2
    radius = torch.hypot(x, y)
    wave = 2 * torch.atan2(y, x) - 3 * 2 * math.pi * radius
    shifts = torch.tensor([0, 1, 2]) / 3 if colours else torch.zeros(3)
    contrast = 0.5 * (1 - torch.exp(-((radius / 0.1) ** 2)))
    return _bytes(0.5 + contrast * torch.cos(wave - 2 * math.pi * shifts[:, None, None]))


def _checkerboard(option: str, size: tuple[int, int]) -> Tensor:
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", option, re.ASCII)
    rows, columns = (int(group) for group in found.groups()) if found else (0, 0)
    if not (1 <= rows <= size[0] and 1 <= columns <= size[1]):
        raise InputError(
            f"expected checkerboard:RxC with R from 1 to {size[0]} and C from 1 to {size[1]}, such as "
            f"checkerboard:8x8, got 'checkerboard:{option}'"
        )
    row = torch.arange(size[0])[:, None] * rows // size[0]
    column = torch.arange(size[1])[None] * columns // size[1]
    return ((row + column) % 2 * 255).to(torch.uint8).expand(3, *size).clone()


def _solid(option: str, size: tuple[int, int]) -> Tensor:
    try:
        colour = ImageColor.getcolor(option, "RGB")
    except ValueError as error:
        raise InputError(f"expected a colour such as solid:gray or solid:#ff8000, got 'solid:{option}'") from error
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, *size).clone()
