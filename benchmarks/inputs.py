"""The inputs shared by all methods of a comparison: encoder, images, starts, targets, ball, seeds."""

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from oodattack.core.checks import check_health, evaluation_mode
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.images import digest, evenly, fit, open_images, open_starts
from oodattack.settings.attack import AttackSettings
from oodattack.settings.ball import NORMS
from oodattack.speed import prepare
from oodattack.speed.half_gradient import HalfGradient
from oodattack.speed.prepared import Prepared


@dataclass(frozen=True, eq=False)
class Case:
    """One attack problem, the same for every method.

    Attributes:
        encoder: f as loaded; all results are measured with it.
        prepared: a faster implementation of f, which is attacked.
        x_in: (B, 3, H, W) in-distribution images, 8-bit values in [0, 1].
        start: (B, 3, H, W) initial OOD images.
        target: (B, K) latents f(x_in).
        norm: 1, 2 or infinity.
        eps: radius of the ball, for pixels in [0, 1].
        seeds: (B,) one per sample.
        header: a record of what was compared: names and digests, without folders.
    """

    encoder: Encoder
    prepared: nn.Module
    x_in: Tensor
    start: Tensor
    target: Tensor
    norm: float
    eps: float
    seeds: tuple[int, ...]
    header: dict[str, Any]

    def batches(self, size: int) -> list[slice]:
        """Split the images into batches of at most ``size`` rows."""
        count = len(self.start)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def load_case(settings: AttackSettings) -> Case:
    """Load what the settings name: encoder, images, start, eps, norm, seed, limit and device.

    Raises:
        InputError: if any of these is invalid or cannot be read, or eps is not positive and finite.

    >>> settings = AttackSettings(
    ...     encoder="python:torch.nn:Flatten,size=8,layer=output", images="torchvision:FakeData", limit=2,
    ...     start=("noise",), out="unused", device="cpu")
    >>> load_case(settings).target.shape
    torch.Size([2, 192])
    """
    for name, values in (("eps", settings.eps), ("start", settings.start)):
        if len(values) != 1:
            raise InputError(f"expected one {name} for a benchmark, got {len(values)}")
    (eps,), (spec,) = settings.eps, settings.start
    if not 0 < eps < float("inf"):
        raise InputError(f"expected a positive and finite eps, got {eps:g}")
    images = open_images(settings.images)
    encoder = load_encoder(settings.encoder, device=settings.device)
    starts = open_starts(spec, size=encoder.input_size, seed=settings.seed)
    chosen = evenly(len(images), settings.limit or len(images))
    names = [images.names[i] for i in chosen]
    device = encoder.mean.device
    x_in = dequantize(torch.stack([fit(images.read(i), encoder.input_size) for i in chosen])).to(device)
    start = dequantize(torch.stack([starts.get(place)[1] for place in range(len(chosen))])).to(device)
    check_health(encoder, start)
    target = latents(encoder, x_in)
    for i in (~target.any(1)).nonzero().flatten().tolist():
        raise InputError(f"expected a latent that is not all zeros, because MAPE divides by it; remove {names[i]}")
    prepared = prepare(encoder)
    header = {
        "encoder": _without_folders(settings.encoder),
        "encoder_digest": encoder.digest(),
        "layer": encoder.layer,
        "latent_dim": encoder.latent_dim,
        "images": names,
        "images_digest": digest(images, chosen),
        "start": starts.name,
        "start_digest": starts.digest(len(chosen)),
        "norm": settings.norm,
        "eps": eps,
        "seed": settings.seed,
        "precision": precision(prepared),
    }
    seeds = tuple(settings.seed + place for place in range(len(chosen)))
    return Case(encoder, prepared, x_in, start, target, NORMS[settings.norm], eps, seeds, header)


def precision(f: nn.Module) -> str:
    """Describe the precision of a prepared encoder.

    >>> precision(nn.Flatten())
    '32 bits'
    """
    half = any(isinstance(module, HalfGradient) for module in f.modules())
    twin = isinstance(f, Prepared) and f.rough_twin is not None
    return "32 bits" + ", gradients in bfloat16" * half + ", a twin in bfloat16" * twin


def latents(encoder: Encoder, images: Tensor) -> Tensor:
    """Compute the latents (B, K) of any number of images, a few at a time."""
    with evaluation_mode(encoder), torch.no_grad():
        return torch.cat([encoder(part) for part in torch.split(images, 16)])


def machine() -> dict[str, Any]:
    """Hardware and software versions, without the host name.

    >>> machine()["torch"] == torch.__version__
    True
    """
    found: dict[str, Any] = {"cpu": _cpu(), "cores": cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["python"] = platform.python_version()
    for package in ("oodattack", "torch", "torchvision", "numpy", "adversarial-robustness-toolbox"):
        try:
            found[package] = version(package) if package != "torch" else torch.__version__
        except PackageNotFoundError:
            found[package] = None
    return found


def start_program(command: Callable[..., None]) -> None:
    """Run a benchmark from the command line; an InputError is printed as one sentence, with exit code 2."""
    try:
        typer.run(command)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _without_folders(spec: str) -> str:
    """Replace paths in an encoder's string by file names.

    >>> _without_folders("python:a:b,weights=/home/me/w.th,mean=0.4/0.5/0.4")
    'python:a:b,weights=w.th,mean=0.4/0.5/0.4'
    """
    return re.sub(r"((?:^file:|weights=|classes=))[^,]*/", r"\1", spec)
