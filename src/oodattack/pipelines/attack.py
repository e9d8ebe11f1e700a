"""The attack in this process, batch by batch, from disk to disk."""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.checks import check_health
from oodattack.core.errors import InputError
from oodattack.core.gradient import get_gradient
from oodattack.core.methods import get_method
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder, pick_device
from oodattack.engines.batch_size import measure_batch_size
from oodattack.engines.machine import environment, exact
from oodattack.engines.memory import Fitting, keep_freed_memory
from oodattack.images import StartSource, evenly, open_images, open_starts
from oodattack.pipelines.batch import Plan, attack_rows
from oodattack.runs import Run, export_pngs, open_run, start_run
from oodattack.settings.attack import AttackSettings
from oodattack.settings.saved import identity
from oodattack.speed import prepare
from oodattack.speed.prepared import Prepared
from oodattack.speed.timing import faster_in_16_bits


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        rows_done: rows of finished batches.
        rows: rows of the run.
        running: rows of the batch at hand: a shard, unless memory was too small for one.
        share: share of that batch's steps in floating point, 0 to 1.
        stopping: whether the run stops after the shard at hand, because of Ctrl-C.
    """

    rows_done: int
    rows: int
    running: int
    share: float
    stopping: bool


def run_attack(
    settings: AttackSettings,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_ready: Callable[[Encoder, Run], None] | None = None,
) -> Run:
    """Attack every image of a collection and leave a run directory; go on with the one that is there.

    On the first Ctrl-C the shard at hand is finished and KeyboardInterrupt raised then, with all of it on disk; a
    second Ctrl-C stops at once and loses only that shard.
    Tells glibc to keep freed memory, for the whole process (`keep_freed_memory`).

    Args:
        settings: what to do.
        on_progress: called after every step.
        on_ready: called once with the encoder and the run before the first batch.

    Returns:
        The finished run.

    Raises:
        InputError: bad input; what was computed before is kept.
        KeyboardInterrupt: after Ctrl-C.

    >>> import tempfile, pathlib
    >>> from oodattack.runs import summarize
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = run_attack(AttackSettings(
    ...         encoder="python:torch.nn:Flatten,size=8,layer=output", images="torchvision:FakeData", limit=1,
    ...         start=("noise",), steps=5, out=pathlib.Path(folder) / "run"))
    ...     [group.count for group in summarize(run)]
    [1]
    """
    method = get_method(settings.method)
    derivative = get_gradient(settings.gradient)
    device = pick_device(settings.device)
    keep_freed_memory()
    images = open_images(settings.images, data_root=settings.data_root, download=settings.download)
    there = len(images)
    encoder = load_encoder(settings.encoder, trust=settings.trust, device=settings.device)
    starts = [
        open_starts(
            spec,
            size=encoder.input_size,
            seed=settings.seed,
            order=settings.start_order,
            data_root=settings.data_root,
            download=settings.download,
        )
        for spec in settings.start
    ]
    plan = Plan(settings, images, starts, evenly(there, settings.limit or there))
    if settings.strict:
        for place, index in enumerate(plan.chosen):
            images.read(index)
            for source in starts:
                source.get(place)
    first = _first_readable(starts, len(plan.chosen))
    pair = dequantize(torch.stack([first, first])).to(device)
    check_health(encoder, pair, gradient=derivative.passes > 0)
    begun = _begun(settings.out)
    with exact():
        half = bool(begun.get("half")) if begun else faster_in_16_bits(device)
        rough = bool(begun.get("rough")) if begun else None if method.uses_twin and derivative.passes else False
        fast = prepare(encoder, half=half, rough=rough)
        has_twin = isinstance(fast, Prepared) and fast.rough_twin is not None
        if rough and not has_twin:
            warnings.warn(
                f"the twin in 16 bits, with which {settings.out} was begun, cannot be made here: its rows may differ in"
                " the last digits from those of an uninterrupted run",
                stacklevel=2,
            )
        batch_size = settings.batch_size or begun.get("batch_size")
        if batch_size is None:
            steps = settings.steps * settings.restarts
            batch_size = measure_batch_size(fast, derivative, pair[:1], samples=len(plan), steps=steps)
    header = {
        "settings": identity(settings),
        "inputs": {
            "encoder": encoder.digest(),
            "layer": encoder.layer,
            "input_size": list(encoder.input_size),
            "latent_dim": encoder.latent_dim,
            "parts": list(encoder.parts),
            "images": images.digest(),
            "starts": [start.digest() for start in starts],
        },
        "rows": len(plan),
        "batch_size": batch_size,
        # As the run that is there has them, be it of a time when none had.
        "half": begun.get("half") if begun else half,
        "rough": begun.get("rough") if begun else has_twin,
        "environment": environment(device),
    }
    with start_run(settings.out, header) as run, _finish_first() as stop, exact():
        if on_ready is not None:
            on_ready(encoder, run)
        _run_shards(run, plan, encoder, fast, on_progress, stop)
    if run.read(["row"]).num_rows == 0:
        some = next(iter(run.skipped().values()))
        for number in run.done():  # nothing was computed: the command that comes after the images are mended is new
            run.shard(number).unlink()
        raise InputError(f"expected images in {settings.images}, got none that can be decoded; the first: {some}")
    return run


def _run_shards(
    run: Run,
    plan: Plan,
    encoder: Encoder,
    fast: nn.Module,
    on_progress: Callable[[Progress], None] | None,
    stop: threading.Event,
) -> None:
    done = set(run.done())
    rows_done = sum(len(run.shard_rows(number)) for number in done)
    fitting = Fitting(run.header["batch_size"])

    def attack_batch(rows: range) -> tuple[list[dict[str, Any]], dict[str, str]]:
        steps = count(1)

        def on_step() -> None:
            if on_progress is not None:
                share = next(steps) / (plan.settings.steps * plan.settings.restarts)
                on_progress(Progress(rows_done, run.header["rows"], len(rows), share, stop.is_set()))

        return attack_rows(plan, encoder, fast, rows, on_step)

    for number in range(run.shard_count):
        if number not in done:
            table: list[dict[str, Any]] = []
            skipped: dict[str, str] = {}
            for rows, (more, more_skipped) in fitting.batches(run.shard_rows(number), attack_batch):
                table += more
                skipped |= more_skipped
                rows_done += len(rows)
            run.write_shard(number, table, skipped)
        if plan.settings.png is not None:
            export_pngs(run, plan.settings.png, [number])
        if stop.is_set() and len(run.done()) < run.shard_count:
            raise KeyboardInterrupt


def _first_readable(starts: Sequence[StartSource], places: int) -> Tensor:
    """The first start image that can be decoded.

    Raises:
        InputError: the first reason, if there is none.
    """
    failures = []
    for place in range(places):
        for source in starts:
            try:
                return source.get(place)[1]
            except InputError as error:
                failures.append(error)
    raise failures[0]


@contextmanager
def _finish_first() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second acts as usual. Only the main thread can listen for it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = signal.getsignal(signal.SIGINT)

    def listen(_number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, listen)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)


def _begun(out: Path) -> Mapping[str, Any]:
    """The header of the run that is there, or nothing: what was measured for it holds for the rest, too."""
    return open_run(out).header if (out / "run.json").exists() else {}
