"""Engines and batches: the batch size is measured, and halved when an allocator reports that memory ran out."""

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations, count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd, Spsa
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines import Chunk, Engine, LocalEngine, OnStep, PerProcess, Report, Result, Step, Work, batch_size
from oodattack.engines.batch_size import measure_batch_size, smallest_near_best
from oodattack.engines.engine import ignore, never
from oodattack.engines.memory import in_batches, out_of_memory
from oodattack.images import decode, evenly
from oodattack.pipelines.attack import run_attack
from oodattack.runs import Run
from oodattack.settings.attack import AttackSettings
from tests.factories import jpeg_resnet20, tiny

IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def exhaust() -> None:
    """Try to allocate four million gigabytes."""
    torch.empty(2**50)


class _Hungry(nn.Module):
    """Runs out of memory with more than three images at once."""

    input_size = (32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.tiny = tiny()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            exhaust()
        return cast(Tensor, self.tiny(x))


def hungry() -> nn.Module:
    return _Hungry()


def run_of(tmp_path: Path, encoder: str, name: str, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "encoder": f"python:{encoder}",
        "images": "torchvision:FakeData",
        "start": ("noise",),
        "limit": 19,
        "eps": (4.0,),
        "steps": 12,
        "batch_size": 8,
        "device": "cpu",
        "out": tmp_path / name,
    }
    run = run_attack(AttackSettings(**{**values, **changes}))
    assert run.header["batch_size"] == 8
    return run


def rows_of(tmp_path: Path, encoder: str, name: str, **changes: Any) -> list[dict[str, Any]]:
    return list(run_of(tmp_path, encoder, name, **changes).read().to_pylist())


def test_batches_that_do_not_fit_are_halved_in_each_shard_and_recorded(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not enough memory") as caught:
        run = run_of(tmp_path, "tests.test_engines:hungry,layer=input of tiny.fc", "hungry")
    halved = [str(warning.message) for warning in caught if "memory" in str(warning.message)]
    # Each shard starts from the run's batch size, so it does not matter which process computed which.
    whole = ["not enough memory for a batch of 8: reduced to 4", "not enough memory for a batch of 4: reduced to 2"]
    assert halved == [*whole, *whole]
    assert [run.record(number).batch_sizes for number in run.done()] == [[2, 2, 2, 2], [2, 2, 2, 2], [3]]
    rows = run.read().to_pylist()
    assert [row["row"] for row in rows] == list(range(19))
    assert [row["x_in_name"] for row in rows] == [f"fakedata/{number:05d}" for number in evenly(1000, 19)]
    encoder = load_encoder("python:tests.factories:tiny", device="cpu")
    for row in rows:
        z_out, z_in = (encoder(dequantize(decode(row[name]["bytes"]))[None]) for name in ("image", "x_in"))
        assert row["mape"] == pytest.approx(mape(z_out, z_in).item(), rel=1e-3, abs=1e-5)


@dataclass(frozen=True)
class Backwards:
    """An engine that takes the chunks in reverse order."""

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        yield from LocalEngine().map(work, reversed(list(chunks)), stop=stop, on_step=on_step)


@dataclass(frozen=True)
class Processes:
    """An engine with one worker process, which imports, unpickles and loads everything itself, as on a cluster."""

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_keep, initargs=(work,)) as pool:
            todo = list(chunks)
            yield from zip(todo, pool.map(_work, todo), strict=True)


_kept: list[Any] = []


def _keep(work: Any) -> None:
    torch.set_num_threads(3)  # a worker need not start with the driver's number of threads
    _kept.append(work)


def _work(chunk: Any) -> Any:
    return _kept[0](chunk, lambda _step: None)


@pytest.mark.parametrize("engine", [Backwards(), Processes()])
def test_another_engine_gives_the_same_rows(engine: Engine, tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:tiny", images="torchvision:FakeData", start=("noise",), limit=5, steps=6,
        batch_size=2, device="cpu", out=tmp_path / "local",
    )  # fmt: skip
    local = run_attack(settings)
    other = run_attack(replace(settings, out=tmp_path / "other"), engine=engine)
    assert other.header == local.header
    assert other.read().to_pylist() == local.read().to_pylist()
    assert [other.record(number) for number in range(3)] == [local.record(number) for number in range(3)]


def test_an_engine_finishes_a_run_that_another_began(tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:tiny", images="torchvision:FakeData", start=("noise",), limit=5, steps=2,
        batch_size=2, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    run = run_attack(settings)
    rows = run.read().to_pylist()
    run.shard(1).unlink()
    assert run_attack(settings, engine=Backwards()).read().to_pylist() == rows


def test_an_encoder_with_random_weights_is_refused_in_other_processes(tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:resnet20", images="torchvision:FakeData", start=("noise",), limit=1, steps=1,
        batch_size=1, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"expected the same encoder .* in every process, got different weights"):
        run_attack(settings, engine=Pickling())


def test_a_worker_of_a_resumed_run_uses_the_number_of_threads_of_its_header(tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:tiny", images="torchvision:FakeData", start=("noise",), limit=3, steps=2,
        batch_size=2, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    run, threads = run_attack(settings), torch.get_num_threads()
    header = json.loads((run.path / "run.json").read_text())
    header["environment"]["threads"] = threads + 1
    (run.path / "run.json").write_text(json.dumps(header))
    run.shard(1).unlink()
    try:
        resumed = run_attack(settings, engine=Pickling())
    finally:
        torch.set_num_threads(threads)  # the worker is this process
    assert [resumed.record(number).machine["threads"] for number in range(2)] == [threads, threads + 1]


class Pickling:
    """An engine that pickles the work, as one with several processes does."""

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        return LocalEngine().map(pickle.loads(pickle.dumps(work)), chunks, stop=stop, on_step=on_step)


def test_no_chunk_is_started_after_a_stop() -> None:
    started: list[int] = []

    def work(chunk: int, report: Report) -> int:
        report(Step(0, 1, 0.5))
        started.append(chunk)
        return -chunk

    seen: list[tuple[int, Step]] = []
    results = LocalEngine().map(
        work, count(1), stop=lambda: len(started) == 2, on_step=lambda chunk, step: seen.append((chunk, step))
    )
    assert list(results) == [(1, -1), (2, -2)]
    assert seen == [(1, Step(0, 1, 0.5)), (2, Step(0, 1, 0.5))]


def test_a_heavy_value_is_made_once_in_each_process_and_never_pickled() -> None:
    heavy = PerProcess(dict, here={"weights": bytes(10**6)})
    sent = pickle.dumps(heavy)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert received.get() == {}
    assert received.get() is received.get()
    assert heavy.get() is heavy.get()
    assert "weights" in heavy.get()


def test_progress_counts_every_row_once_when_batches_are_halved(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    settings = AttackSettings(
        encoder="python:tests.test_engines:hungry", images="torchvision:FakeData", start=("noise",), limit=9, steps=2,
        batch_size=5, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    with warnings.catch_warnings(action="ignore"):
        run_attack(settings, on_progress=lambda now: seen.append((now.rows_done, now.running)))
    assert list(dict.fromkeys(seen)) == [(0, 3), (3, 2), (5, 0), (5, 2), (7, 2), (9, 0)]


def test_batches_cover_the_rows_in_order_and_keep_the_size_that_fits() -> None:
    def work(rows: range) -> list[int]:
        if len(rows) > 5:
            exhaust()
        return list(rows)

    with pytest.warns(UserWarning, match="not enough memory"):
        batches = list(in_batches(range(3, 20), 16, work))
    assert [number for _, numbers in batches for number in numbers] == list(range(3, 20))
    assert [len(rows) for rows, _ in batches] == [4, 4, 4, 4, 1]


def test_one_image_that_does_not_fit_is_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="batch of 2: reduced to 1"),
        pytest.raises(InputError, match="expected enough memory for a batch of one image"),
    ):
        list(in_batches(range(2), 2, lambda _rows: exhaust()))


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    def work(rows: range) -> None:
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match="size"):
        list(in_batches(range(4), 4, work))


def test_errors_of_the_allocators_are_recognised() -> None:
    for allocate in (exhaust, lambda: np.empty(2**60, np.uint8), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert out_of_memory(caught.value), caught.value
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))


FAULTS = """
import resource, torch
from oodattack.engines.memory import keep_freed_memory

for keep in (lambda: None, keep_freed_memory):
    keep()
    for n in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(2**24) for _ in range(4)]  # larger than any block that malloc keeps by default
        del tensors
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators are left as they are")
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    """Page faults in the last of eight equal rounds, each of which allocates 256 MiB."""
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True).stdout
    default, kept = map(int, printed.split())
    if default < 1000:
        pytest.skip("this system's allocator keeps freed memory by itself")
    assert kept < default / 100


def test_the_smallest_batch_near_the_best_is_chosen() -> None:
    assert smallest_near_best({1: 5.0, 2: 9.4, 4: 9.6, 8: 10.0}) == 4
    assert smallest_near_best({1: 10.0, 2: 8.0, 4: 7.0}) == 1


@pytest.mark.parametrize(("seconds", "expected"), [(lambda _size: 1e-3, 8), (lambda size: 1e-3 * size, 1)])
def test_larger_batches_are_chosen_where_they_cost_no_more(
    seconds: Callable[[int], float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are made up, so that the test does not depend on what is faster on this machine."""
    monkeypatch.setattr(batch_size, "_seconds", lambda _f, _gradient, _image, size: seconds(size))
    assert measure_batch_size(nn.Identity(), Autograd(), IMAGE, samples=9, steps=10**6) == expected


def test_a_batch_size_beyond_memory_is_not_chosen() -> None:
    encoder = Encoder(_Hungry(), name="hungry", input_size=(32, 32))
    assert measure_batch_size(encoder, Autograd(), IMAGE, samples=1000, steps=10**6) in (1, 2)
    assert measure_batch_size(nn.Module(), lambda *_: exhaust(), IMAGE, samples=9, steps=9) == 1  # type: ignore[arg-type]


def test_an_encoder_without_a_gradient_is_measured_by_its_estimate() -> None:
    encoder = Encoder(jpeg_resnet20(), name="jpeg", input_size=(32, 32))
    assert measure_batch_size(encoder, Spsa(directions=1), IMAGE, samples=2, steps=1) in (1, 2)


def test_the_batch_size_is_measured_if_none_is_given(tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:tiny", images="torchvision:FakeData", start=("noise",), limit=3, steps=2,
        device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    assert run_attack(settings).header["batch_size"] in (1, 2)


def test_a_header_without_shards_is_not_adopted(tmp_path: Path) -> None:
    """It may be that of another encoder, for which nothing was computed."""
    settings = AttackSettings(
        encoder="python:tests.factories:tiny", images="torchvision:FakeData", start=("noise",), limit=3, steps=2,
        device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    run = run_attack(settings)
    for number in run.done():
        run.shard(number).unlink()
    other = {**run.header, "batch_size": 7, "half": not run.header["half"]}
    (run.path / "run.json").write_text(json.dumps(other))
    again = run_attack(settings)
    assert again.header["half"] == run.header["half"]
    assert again.header["batch_size"] in (1, 2)
    assert again.header == json.loads((run.path / "run.json").read_text())


def test_a_run_keeps_its_precision(tmp_path: Path) -> None:
    """The precision that was faster when the run began may not be the faster one when it resumes."""
    torch.manual_seed(0)
    first = rows_of(tmp_path, "tests.factories:resnet20", "first", limit=10)
    ends = {}
    for half, rough in ((False, False), (True, False), (False, True)):
        path = tmp_path / f"{half} {rough}"
        shutil.copytree(tmp_path / "first", path)
        header = json.loads((path / "run.json").read_text()) | {"half": half, "rough": rough}
        (path / "run.json").write_text(json.dumps(header))
        (path / "shards" / "00001.parquet").unlink()
        torch.manual_seed(0)
        rows = rows_of(tmp_path, "tests.factories:resnet20", path.name, limit=10)
        assert rows[:8] == first[:8]
        assert json.loads((path / "run.json").read_text()) == header
        ends[half, rough] = rows[8:]
    assert all(one != other for one, other in combinations(ends.values(), 2))
    begun = json.loads((tmp_path / "first" / "run.json").read_text())
    assert ends.get((begun["half"], begun["rough"]), first[8:]) == first[8:]
