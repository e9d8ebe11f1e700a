"""`python -m benchmarks.slopes`: does the score of each detector have a gradient, and is it the score's derivative?

Every detector is fitted, and the gradient of its score is tried on images of every set: how often it is finite and not
zero, and how often it agrees with central differences (`oodattack.attacks.slope`). Random scores are tried with fixed
draws.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.inputs import machine, start_program
from oodattack.attacks import follow
from oodattack.auditing.data import TrainImages, read_set
from oodattack.core.pixels import dequantize
from oodattack.detectors import NotApplicableError, make_detectors, make_subject
from oodattack.encoders import load_encoder
from oodattack.engines import exact
from oodattack.images import evenly, open_images


def main(
    encoder: Annotated[str, typer.Option(help="as in `oodattack audit`")],
    train: Annotated[str, typer.Option(help="in-distribution images to fit on")],
    test: Annotated[str, typer.Option(help="other in-distribution images")],
    ood: Annotated[list[str], typer.Option(help="out-of-distribution images; repeat for several sets")],
    detectors: Annotated[str, typer.Option(help="names joined by commas, or all")] = "all",
    fit_limit: Annotated[int, typer.Option(help="maximum number of images to fit on")] = 2000,
    limit: Annotated[int, typer.Option(help="maximum number of images of each set")] = 8,
) -> None:
    """Print a table of the detectors' gradients."""
    torch.manual_seed(0)
    subject = make_subject(load_encoder(encoder))
    loader = TrainImages(open_images(train), subject, fit_limit, batch_size=64)
    size = subject.encoder.input_size
    inside = _images(test, 200, size)
    sets = {Path(spec).name: _images(spec, limit, size) for spec in [test, *ood]}
    images = dequantize(torch.cat(list(sets.values()))).to(subject.device)
    typer.echo(f"{', '.join(f'{len(part)} of {name}' for name, part in sets.items())}; {machine()}\n")
    typer.echo("| detector | followed by | gradient not zero | agrees with differences |\n|---|---|---|---|")
    found, absent = make_detectors(subject, tuple(detectors.split(",")))
    for name, detector in found.items():
        try:
            with exact(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                detector.fit(loader)
                followed = follow(detector, images, detector.score(dequantize(inside).to(subject.device)))
        except NotApplicableError as error:
            typer.echo(f"| {name} | {error} | | |")
            continue
        slope = followed.slope
        typer.echo(
            f"| {name} | {followed.how.partition(' (')[0]} | {slope.nonzero} of {slope.images} |"
            f" {slope.agreeing} of {slope.compared} |"
        )
    for missing in absent:
        typer.echo(f"| {missing.name} | not applicable: {missing.reason} | | |")


def _images(spec: str, limit: int, size: tuple[int, int]) -> Tensor:
    """At most ``limit`` images (N, 3, h, w) uint8 of a collection, evenly spaced."""
    source = open_images(spec)
    return read_set(source, spec, evenly(len(source), limit), size).images


if __name__ == "__main__":
    start_program(main)
