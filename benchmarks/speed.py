"""How fast the prepared encoder is, and what the attack's loop adds to it; ratios first.

    OMP_NUM_THREADS=1 python -m benchmarks.speed

Every ratio is of passes measured in turn in one run, so that whatever else the machine does meets both. A pass is
forward and backward, for a batch.
"""

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from benchmarks.inputs import start_program
from oodattack import attack
from oodattack.cli.photographs import copy_photographs
from oodattack.core.algorithm import SOFT
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines.memory import keep_freed_memory
from oodattack.images import fit, open_images
from oodattack.settings.checks import at_least
from oodattack.speed import prepare
from oodattack.speed.prepared import Prepared

ENCODERS = (
    "torchvision:resnet18,weights=none",
    "torchvision:densenet121,weights=none",
    "embedded",
    "timm:vit_tiny_patch16_224,weights=none",
    "python:tests.factories:resnet20",
)
WARM_UP = 3  # steps
CALL = 100  # steps of a whole call: what `attack` takes by default
BALLS = {  # radii that no attack of a few steps reaches, and that it feels from the first step
    (2.0, "free"): 1000.0,
    (2.0, "binding"): 0.2,
    (math.inf, "free"): 1.0,
    (math.inf, "binding"): 1 / 255,
}
CALLS = ((2.0, 20.0), (math.inf, 8 / 255))


def main(
    encoder: Annotated[list[str] | None, typer.Option(help="may be given again (default: five kinds)")] = None,
    batch_size: Annotated[int, typer.Option(help="images of a pass")] = 8,
    rounds: Annotated[int, typer.Option(help="passes or steps of each kind; the median counts")] = 7,
    give_back: Annotated[bool, typer.Option(help="leave malloc as it is: freed memory is given back")] = False,
) -> None:
    """How fast the prepared encoder is, and what the attack's loop adds to it: three tables."""
    for name, value in (("batch_size", batch_size), ("rounds", rounds)):
        at_least(1)(name, value)
    if not give_back:
        keep_freed_memory()  # as a run does; "as loaded" gains from it too
    warnings.filterwarnings("ignore", message=".*random weights")

    print(f"batch of {batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| encoder | prepared / as loaded | as loaded, images/s | prepared, images/s | twin in bfloat16 / prepared |")
    print("|---|---|---|---|---|")
    cases = []
    for spec in encoder or ENCODERS:
        loaded = load_encoder(spec, device="cpu")
        prepared = prepare(loaded)
        images = torch.rand(batch_size, 3, *loaded.input_size)
        cases.append((spec, prepared, images))
        slow, fast = _in_turn(_as_loaded(loaded, images), _bare(prepared, images), rounds)
        line = f"| `{spec}` | {slow / fast:.2f} | {len(images) / slow:.1f} | {len(images) / fast:.1f} |"
        rough = getattr(prepared, "rough_twin", None)
        if rough is not None:
            full, half = _in_turn(_bare(prepared, images), _bare(rough, images), rounds)
        print(line + (" none |" if rough is None else f" {full / half:.2f} |"), flush=True)

    print("\nTime that a step of `attack` takes beyond the prepared encoder's pass, in per cent (without twins):\n")
    print("| encoder | method |" + "".join(f" L{norm:g} {kind} |" for norm, kind in BALLS))
    print("|---|---|" + "---|" * len(BALLS))
    for (spec, f, images), method in product(cases, ("fast", "paper")):
        with _without_twin(f):
            shares = [_overhead(f, images, norm, eps, method, rounds) for (norm, _), eps in BALLS.items()]
        print(f"| `{spec}` | `{method}` |" + "".join(f" {100 * share:.1f} |" for share in shares), flush=True)

    print(f"\nTime that a whole call of `attack` takes beyond {CALL} such passes, with {CALL} steps from noise to")
    print("photographs, in per cent:\n")
    print("| encoder | L2 20 | Linf 8/255 | L2 20, without a twin | Linf 8/255 |\n|---|---|---|---|---|")
    for spec, f, images in cases:
        with torch.no_grad():
            target = f(_photographs(len(images), (images.shape[2], images.shape[3])))
        shares = [_whole_call(f, images, target, norm, eps) for norm, eps in CALLS]
        with _without_twin(f):
            shares += [_whole_call(f, images, target, norm, eps) for norm, eps in CALLS]
        print(f"| `{spec}` |" + "".join(f" {100 * share:.1f} |" for share in shares), flush=True)


def _as_loaded(encoder: Encoder, images: Tensor) -> Callable[[], None]:
    """A pass of the model in the state that its library gives it: in eval mode, its weights requiring gradients."""
    encoder.requires_grad_(True)

    def once() -> None:
        x = images.clone().requires_grad_(True)
        encoder(x).square().sum().backward()
        encoder.zero_grad()

    return once


def _bare(f: nn.Module, images: Tensor) -> Callable[[], None]:
    """A pass as an attack needs it: the gradient of the images alone."""

    def once() -> None:
        x = images.clone().requires_grad_(True)
        torch.autograd.grad(f(x).square().sum(), x)

    return once


@contextmanager
def _without_twin(f: nn.Module) -> Iterator[None]:
    """Let `attack` see the prepared encoder alone."""
    if not isinstance(f, Prepared):
        yield
        return
    rough, f.rough_twin = f.rough_twin, None
    try:
        yield
    finally:
        f.rough_twin = rough


def _in_turn(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median seconds of two functions that are called in turn, after a call of each to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for times, call in zip(seconds, (first, second), strict=True):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    return median(seconds[0][1:]), median(seconds[1][1:])


def _overhead(f: nn.Module, images: Tensor, norm: float, eps: float, method: str, rounds: int) -> float:
    """The share that a step of the attack takes beyond a bare pass, which is measured after every step.

    Each step is compared with the pass beside it; the medians of the steps with softened kinks and of those without
    count for their share of a run. The median omits the passes that measure r anew, one of ten, and the steps that
    decompose the path's Gram matrix, one of 32 when it is full; `_whole_call` has them.
    """
    with torch.no_grad():
        target = f(images.flip(0))
    bare, bares, steps = _bare(f, images), [], []
    begun = time.perf_counter()

    def after_step(_step: int, _mape: Tensor) -> None:
        nonlocal begun
        ended = time.perf_counter()
        steps.append(ended - begun)
        bare()
        begun = time.perf_counter()
        bares.append(begun - ended)

    soft = WARM_UP + rounds
    total = math.ceil(soft / SOFT)
    attack(f, images, target, eps=eps, norm=norm, steps=total, method=method, check=False, callback=after_step)
    ratios = [step / bare_pass for step, bare_pass in zip(steps, bares, strict=True)]
    return SOFT * median(ratios[WARM_UP:soft]) + (1 - SOFT) * median(ratios[soft:]) - 1


def _photographs(count: int, size: tuple[int, int]) -> Tensor:
    """So many photographs that ship with packages, each again as its mirror image: (count, 3, *size)."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_images(copy_photographs(Path(folder))[0])
        images = dequantize(torch.stack([fit(source.read(i), size) for i in range(len(source))]))
    images = torch.cat([images, images.flip(3)])
    return images[torch.arange(count) % len(images)]


def _whole_call(f: nn.Module, images: Tensor, target: Tensor, norm: float, eps: float) -> float:
    """The share that a call takes beyond as many bare passes as it has steps; one is measured after every step."""
    bare, bares = _bare(f, images), []

    def after_step(_step: int, _mape: Tensor) -> None:
        begun = time.perf_counter()
        bare()
        bares.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    attack(f, images, target, eps=eps, norm=norm, steps=CALL, callback=after_step)
    return (time.perf_counter() - begun - sum(bares)) / sum(bares) - 1


if __name__ == "__main__":
    start_program(main)
