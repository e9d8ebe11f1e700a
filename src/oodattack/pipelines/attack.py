"""Attack a collection of images, from disk to disk."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from oodattack.core.errors import InputError
from oodattack.core.gradient import get_gradient
from oodattack.core.methods import get_method
from oodattack.encoders import Encoder
from oodattack.engines import (
    Engine,
    LocalEngine,
    PerProcess,
    Step,
    environment,
    finish_first,
    keep_freed_memory,
    run_one,
)
from oodattack.pipelines.inputs import Inputs, open_in_worker, open_inputs
from oodattack.pipelines.measure import Measure
from oodattack.pipelines.shard import AttackShard
from oodattack.runs import Run, export_pngs, find_run, start_run, write_card
from oodattack.settings.attack import AttackSettings
from oodattack.settings.saved import identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        rows_done: number of rows whose batches are finished.
        rows: total number of rows of the run.
        running: number of rows in the current batch: those of a shard, unless memory was too small for it.
        share: fraction of that batch's steps in floating point that are done, 0 to 1.
        stopping: whether the run stops after the current shard, because of Ctrl-C.
    """

    rows_done: int
    rows: int
    running: int
    share: float
    stopping: bool


def run_attack(
    settings: AttackSettings,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_ready: Callable[[Encoder, Run], None] | None = None,
) -> Run:
    """Attack every image of a collection and write a run directory, or resume an existing one.

    On the first Ctrl-C the current shard is finished and written, then KeyboardInterrupt is raised; a second Ctrl-C
    stops at once and loses only that shard. For the whole process, glibc keeps freed memory for reuse
    (`keep_freed_memory`).

    Args:
        settings: the settings of the run.
        engine: computes the shards; by default in this process.
        on_progress: called after every step, if the engine reports steps, and after every shard.
        on_ready: called once with the encoder and the run before the first shard.

    Returns:
        The finished run.

    Raises:
        InputError: for invalid input; finished shards are kept.
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
    engine = engine or LocalEngine()
    get_method(settings.method), get_gradient(settings.gradient)  # report an unknown name before loading anything
    keep_freed_memory()
    opened = open_inputs(settings)
    opened.check()
    begun = find_run(settings.out)
    facts = opened.facts()

    def inputs(header: Mapping[str, Any]) -> PerProcess[Inputs]:
        return PerProcess(partial(open_in_worker, settings, header), here=opened)

    planned = environment(opened.device) if begun is None else begun.header["environment"]
    speed = run_one(engine, Measure(inputs({"inputs": facts, "environment": planned})), begun)
    header = {
        "settings": identity(settings),
        "inputs": facts,
        "rows": len(opened.plan),
        "rows_per_shard": speed.batch_size,
        "batch_size": speed.batch_size,
        "half": speed.half,
        "rough": speed.rough,
        "environment": speed.environment,
    }
    with start_run(settings.out, header) as run:
        logger.info("attacking %d samples, %d of %d shards are done", header["rows"], len(run.done()), run.shard_count)
        if on_ready is not None:
            on_ready(opened.encoder, run)
        _compute_shards(engine, AttackShard(run, inputs(run.header)), settings, on_progress or (lambda _progress: None))
        _refuse_empty(run, settings)
        write_card(run)
    return run


def _compute_shards(
    engine: Engine, work: AttackShard, settings: AttackSettings, on_progress: Callable[[Progress], None]
) -> None:
    """Compute the missing shards; if the settings ask for it, export the images of all shards."""
    run = work.run
    done = set(run.done())
    missing = [number for number in range(run.shard_count) if number not in done]
    rows, rows_done = run.header["rows"], sum(len(run.shard_rows(number)) for number in done)
    if settings.png is not None:
        export_pngs(run, settings.png, sorted(done))
    with finish_first() as stop:

        def on_step(_number: int, step: Step) -> None:
            on_progress(Progress(rows_done + step.rows_done, rows, step.running, step.share, stop.is_set()))

        for number, shard_rows in engine.map(work, missing, stop=stop.is_set, on_step=on_step):
            rows_done += shard_rows
            logger.info("shard %d is done: %d of %d samples", number, rows_done, rows)
            for reason in run.record(number).skipped.values():
                logger.warning("skipped an image: %r", reason)  # %r, because names may contain line breaks
            on_progress(Progress(rows_done, rows, 0, 0.0, stop.is_set()))
            if settings.png is not None:
                export_pngs(run, settings.png, [number])
        if stop.is_set() and len(run.done()) < run.shard_count:
            raise KeyboardInterrupt


def _refuse_empty(run: Run, settings: AttackSettings) -> None:
    """Raise if no image could be used. The shards are deleted, so that the run can start over with repaired images.

    Raises:
        InputError: with the reason for the first image.
    """
    if run.read(["row"]).num_rows > 0:
        return
    first = next(iter(run.skipped().values()))
    for number in run.done():
        run.delete_shard(number)
    raise InputError(f"expected images in {settings.images}, got none that can be decoded; the first: {first}")
