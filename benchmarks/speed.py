"""The speed of prepared encoders, and the overhead of the attack's loop, as ratios.

    OMP_NUM_THREADS=1 python -m benchmarks.speed

Each ratio compares passes that alternate in one run, so that other load on the machine affects both. A pass is a
forward and a backward pass of a batch.
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
from oodattack.auditing.data import in_turn
from oodattack.cli.photographs import copy_photographs
from oodattack.core.methods.fast.fast import APPROXIMATE_STEPS
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines.memory import keep_freed_memory
from oodattack.images import fit, open_images
from oodattack.settings.checks import at_least
from oodattack.speed import prepare
from oodattack.speed.prepared import Prepared
from oodattack.speed.timing import interleaved_times

ENCODERS = (
    "torchvision:resnet18,weights=none",
    "torchvision:densenet121,weights=none",
    "embedded",
    "timm:vit_tiny_patch16_224,weights=none",
    "python:tests.factories:resnet20",
)
WARM_UP_STEPS = 3
CALL_STEPS = 100  # of a whole call, the default of `attack`
BALLS = {  # radii that a few steps cannot reach, and radii that are binding from the first step
    (2.0, "free"): 1000.0,
    (2.0, "binding"): 0.2,
    (math.inf, "free"): 1.0,
    (math.inf, "binding"): 1 / 255,
}
CALL_BALLS = ((2.0, 20.0), (math.inf, 8 / 255))


def main(
    encoder: Annotated[list[str] | None, typer.Option(help="encoder; may be repeated (default: five kinds)")] = None,
    batch_size: Annotated[int, typer.Option(help="number of images in a pass")] = 8,
    rounds: Annotated[int, typer.Option(help="passes or steps of each kind, of which the median is reported")] = 7,
    return_memory: Annotated[
        bool, typer.Option(help="let malloc return freed memory to the system, its default")
    ] = False,
) -> None:
    """Measure the speed of prepared encoders and the overhead of the attack's loop; prints three tables."""
    for name, value in (("batch_size", batch_size), ("rounds", rounds)):
        at_least(1)(name, value)
    if not return_memory:
        keep_freed_memory()  # as a run does; the encoder as loaded benefits too
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
        slow, fast = _median_times(_as_loaded(loaded, images), _bare(prepared, images), rounds)
        line = f"| `{spec}` | {slow / fast:.2f} | {len(images) / slow:.1f} | {len(images) / fast:.1f} |"
        rough = prepared.rough_twin if isinstance(prepared, Prepared) else None
        if rough is not None:
            full, half = _median_times(_bare(prepared, images), _bare(rough, images), rounds)
        print(line + (" none |" if rough is None else f" {full / half:.2f} |"), flush=True)

    print("\nOverhead of a step of `attack` over a pass of the prepared encoder, in per cent (without twins):\n")
    print("| encoder | method |" + "".join(f" L{norm:g} {kind} |" for norm, kind in BALLS))
    print("|---|---|" + "---|" * len(BALLS))
    for (spec, f, images), method in product(cases, ("fast", "paper")):
        with _without_twin(f):
            shares = [_overhead(f, images, norm, eps, method, rounds) for (norm, _), eps in BALLS.items()]
        print(f"| `{spec}` | `{method}` |" + "".join(f" {100 * share:.1f} |" for share in shares), flush=True)

    print(
        f"\nOverhead of a whole call of `attack`, {CALL_STEPS} steps from noise to photographs, over {CALL_STEPS} such"
    )
    print("passes, in per cent:\n")
    print("| encoder | L2 20 | Linf 8/255 | L2 20, without a twin | Linf 8/255 |\n|---|---|---|---|---|")
    for spec, f, images in cases:
        with torch.no_grad():
            target = f(_photographs(len(images), (images.shape[2], images.shape[3])))
        shares = [_whole_call(f, images, target, norm, eps) for norm, eps in CALL_BALLS]
        with _without_twin(f):
            shares += [_whole_call(f, images, target, norm, eps) for norm, eps in CALL_BALLS]
        print(f"| `{spec}` |" + "".join(f" {100 * share:.1f} |" for share in shares), flush=True)


def _as_loaded(encoder: Encoder, images: Tensor) -> Callable[[], None]:
    """A pass of the model as its library loads it: in eval mode, with weights that require gradients."""
    encoder.requires_grad_(True)

    def once() -> None:
        x = images.clone().requires_grad_(True)
        encoder(x).square().sum().backward()
        encoder.zero_grad()

    return once


def _bare(f: nn.Module, images: Tensor) -> Callable[[], None]:
    """A pass as an attack needs it: the gradient with respect to the images only."""

    def once() -> None:
        x = images.clone().requires_grad_(True)
        torch.autograd.grad(f(x).square().sum(), x)

    return once


@contextmanager
def _without_twin(f: nn.Module) -> Iterator[None]:
    """Hide the twin of a prepared encoder from `attack`."""
    if not isinstance(f, Prepared):
        yield
        return
    twin = f.rough_twin
    f.add_twin(None)
    try:
        yield
    finally:
        f.add_twin(twin)


def _median_times(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median seconds of two functions, called in turn."""
    first_times, second_times = interleaved_times(first, second, min_rounds=rounds)
    return median(first_times), median(second_times)


def _overhead(f: nn.Module, images: Tensor, norm: float, eps: float, method: str, rounds: int) -> float:
    """The relative overhead of a step of the attack over a bare pass, which is timed after every step.

    Each step is compared with the pass that follows it. The medians of the steps with and without softened kinks are
    weighted by their shares of a run. The median ignores the passes that re-measure r, one in ten, and the steps that
    decompose the path's Gram matrix, one in 32 when it is full; `_whole_call` includes them.
    """
    with torch.no_grad():
        target = f(images.flip(0))
    bare, bares, steps = _bare(f, images), [], []
    started = time.perf_counter()

    def after_step(_step: int, _mape: Tensor) -> None:
        nonlocal started
        ended = time.perf_counter()
        steps.append(ended - started)
        bare()
        started = time.perf_counter()
        bares.append(started - ended)

    soft = WARM_UP_STEPS + rounds
    total = math.ceil(soft / APPROXIMATE_STEPS)
    attack(f, images, target, eps=eps, norm=norm, steps=total, method=method, check=False, callback=after_step)
    ratios = [step / bare_pass for step, bare_pass in zip(steps, bares, strict=True)]
    return APPROXIMATE_STEPS * median(ratios[WARM_UP_STEPS:soft]) + (1 - APPROXIMATE_STEPS) * median(ratios[soft:]) - 1


def _photographs(count: int, size: tuple[int, int]) -> Tensor:
    """The photographs bundled with packages and their mirror images, repeated as needed: (count, 3, *size)."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_images(copy_photographs(Path(folder))[0])
        images = dequantize(torch.stack([fit(source.read(i), size) for i in range(len(source))]))
    images = torch.cat([images, images.flip(3)])
    return in_turn(images, count)


def _whole_call(f: nn.Module, images: Tensor, target: Tensor, norm: float, eps: float) -> float:
    """The relative overhead of a call over as many bare passes as it has steps; one is timed after every step."""
    bare, bares = _bare(f, images), []

    def after_step(_step: int, _mape: Tensor) -> None:
        before = time.perf_counter()
        bare()
        bares.append(time.perf_counter() - before)

    started = time.perf_counter()
    attack(f, images, target, eps=eps, norm=norm, steps=CALL_STEPS, callback=after_step)
    return (time.perf_counter() - started - sum(bares)) / sum(bares) - 1


if __name__ == "__main__":
    start_program(main)
