"""The images, starts and flows of these benchmarks."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.encoders import load_encoder
from oodattack.images import evenly, fit, open_images, open_starts
from oodattack.images.generated import generate
from oodattack.networks import Glow

Flow = Annotated[str, typer.Option(help="the flow: trained:DIR")]
Images = Annotated[str, typer.Option(help="in-distribution images that were not trained on")]
Starts = Annotated[list[str] | None, typer.Option(help="further starts, such as x-rays")]
Out = Annotated[Path, typer.Option(help="folder for tables and figures")]

GENERATED = ("spiral", "checkerboard:2x2", "checkerboard:8x8", "noise")


def load_flow(spec: str) -> Glow:
    """Load the Glow that ``trained:DIR`` names, with frozen weights.

    Raises:
        InputError: if it is another kind of network.
    """
    model = load_encoder(spec, device="cpu").model
    if not isinstance(model, Glow):
        raise InputError(f"expected a flow in {spec}, got {type(model).__name__}")
    return model.requires_grad_(False)


def load_images(spec: str | Path, size: int, limit: int | None = None) -> Tensor:
    """Images (N, 3, size, size) in [0, 1], spread evenly over a collection."""
    source = open_images(spec)
    chosen = range(len(source)) if limit is None else evenly(len(source), limit)
    return dequantize(torch.stack([fit(source.read(i), (size, size)) for i in chosen]))


def load_starts(more: list[str], size: int, count: int) -> dict[str, Tensor]:
    """By name, starts (count, 3, size, size): those of Figs. 12 and 13 of the paper, and others such as x-rays."""
    found = {}
    for spec in GENERATED:
        images = [generate(spec, (size, size), seed=i) for i in range(count if spec == "noise" else 1)]
        found[spec] = dequantize(torch.stack([images[i % len(images)] for i in range(count)]))  # type: ignore[misc]
    for spec in more:
        starts = open_starts(spec, size=(size, size))
        found[starts.name] = dequantize(torch.stack([starts.get(i)[1] for i in range(count)]))
    return found
