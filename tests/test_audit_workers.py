"""Audits whose work runs in other processes: computed as the header records, with the same encoder and detectors."""

import json
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.same_audit import differences
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.detectors import Loader, Subject
from oodattack.engines import Chunk, OnStep, Result, Work
from oodattack.engines.engine import ignore, never
from oodattack.pipelines.audit import run_audit
from oodattack.settings import AuditSettings
from tests.factories import Norm
from tests.test_engines import Pickling

pytestmark = pytest.mark.usefixtures("few_resamples")


def settings(out: Path, **changes: Any) -> AuditSettings:
    values: dict[str, Any] = {
        "encoder": "python:tests.factories:tiny",
        "train": "torchvision:FakeData",
        "test": "torchvision:FakeData",
        "start": ("noise",),
        "detectors": ("KNN", "MaxLogit"),
        "eps": (2.0,),
        "steps": 2,
        "limit": 3,
        "held_out": 9,
        "ood_limit": 5,
        "fit_limit": 60,
        "batch_size": 2,
        "device": "cpu",
        "out": out,
    }
    return AuditSettings(**{**values, **changes})


class Cluster:
    """An engine with one worker process, which has its own number of threads at the start of each job."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        todo = list(chunks)
        yield from zip(todo, self.pool.submit(_compute, pickle.dumps(work), todo).result(), strict=True)


def _compute(sent: bytes, chunks: list[Any]) -> list[Any]:
    torch.set_num_threads(3)
    work = pickle.loads(sent)
    return [work(chunk, lambda _step: None) for chunk in chunks]


def test_a_worker_uses_the_number_of_threads_of_the_header(tmp_path: Path) -> None:
    local = run_audit(settings(tmp_path / "local"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        other = run_audit(settings(tmp_path / "other"), engine=Cluster(pool))
    threads = json.loads((other.path / "audit.json").read_text())["environment"]["threads"]
    assert threads == torch.get_num_threads()
    records = [json.loads(pq.read_schema(path).metadata[b"oodattack"]) for path in other.path.glob("attacks/*/*/*")]
    assert {record["machine"]["threads"] for record in records} == {threads}
    assert {name for name, _ in other.read_scores()} == {"KNN", "MaxLogit"}
    assert differences(local, other) == []


def test_an_encoder_with_random_weights_is_refused_in_other_processes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the same encoder .* in every process, got different weights"):
        run_audit(settings(tmp_path, encoder="python:tests.factories:resnet20"), engine=Pickling())


class ScoresNan(Norm):
    """A detector that fails on the clean images, and is the first to read what `Reader` reads."""

    reading = "mine"

    def reads(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def score(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), torch.nan)


class Reader(Norm):
    reading = "mine"


def test_workers_do_not_restore_detectors_that_failed(tmp_path: Path) -> None:
    own = ("tests.test_audit_workers:ScoresNan", "tests.test_audit_workers:Reader")
    local = run_audit(settings(tmp_path / "local", detector=own))
    other = run_audit(settings(tmp_path / "other", detector=own), engine=Pickling())
    assert other.read_results()["failures"] == {}
    assert "ScoresNan" not in {name for name, _ in other.read_scores()}
    assert differences(local, other) == []


class Random(Norm):
    """A detector with random weights and a random fit."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.weights = torch.rand(subject.features.exact.latent_dim)

    def fit(self, loader: Loader) -> None:
        self.weights = self.weights + torch.rand_like(self.weights)

    def reads(self, images: Tensor) -> Tensor:
        return super().reads(images) * self.weights


def test_a_random_fit_is_the_same_in_every_process_and_command(tmp_path: Path) -> None:
    own = ("tests.test_audit_workers:Random",)
    whole = run_audit(settings(tmp_path / "whole", detector=own))
    other = run_audit(settings(tmp_path / "other", detector=own), engine=Pickling())
    assert differences(whole, other) == []
    for path in other.path.glob("attacks/*/*/00002-00003.parquet"):
        path.unlink()
    assert differences(whole, run_audit(settings(other.path, detector=own))) == []


class Noting(Pickling):
    """An engine that notes whether work is running."""

    running = False

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        self.running = True
        yield from super().map(work, chunks, stop=stop, on_step=on_step)
        self.running = False


def test_a_worker_measures_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, measured_in_a_worker = Noting(), []

    def measure(*_arguments: object, **_options: object) -> int:
        measured_in_a_worker.append(engine.running)
        return 2

    monkeypatch.setattr("oodattack.auditing.batch_size.measure_batch_size", measure)
    audit = run_audit(settings(tmp_path, batch_size=None, detectors=("MaxLogit",), attacks=("latent",)), engine=engine)
    assert measured_in_a_worker == [True]
    assert audit.read_header()["batch_size"] == 2
    # A resumed audit keeps its batch size.
    monkeypatch.undo()
    run_audit(settings(tmp_path, batch_size=None, detectors=("MaxLogit",), attacks=("latent",)))
    assert audit.read_header()["batch_size"] == 2
