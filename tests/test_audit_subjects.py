"""Audits of subjects other than classifiers, by other engines, and of older formats."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from benchmarks.same_audit import differences

from oodattack.auditing.kinds import KINDS
from oodattack.auditing.store import Audit, open_audit
from oodattack.core.errors import InputError
from oodattack.engines.engine import Chunk, OnStep, Result, Work, ignore, never
from oodattack.pipelines.audit import run_audit
from oodattack.report.audit_figures import draw_audit
from oodattack.report.audit_table import audit_markdown
from oodattack.settings import AuditSettings
from tests.cli import oodattack
from tests.digits import write_photographs

pytestmark = [
    pytest.mark.xdist_group("audit subjects"),  # they share an audit
    pytest.mark.usefixtures("few_resamples"),
]

HEADLESS = {"Mahalanobis", "KNN", "MultiMahalanobis", "RMD"}


@pytest.fixture(scope="module")
def pictures(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return *digits, write_photographs(tmp_path_factory.mktemp("photographs"), 60)


def settings(pictures: tuple[Path, Path, Path], out: Path, **changes: Any) -> AuditSettings:
    train, test, photographs = map(str, pictures)
    values: dict[str, Any] = {
        "encoder": "python:tests.factories:small,num_classes=0",
        "train": train,
        "test": test,
        "start": ("noise",),
        "ood": (photographs,),
        "detectors": ("Mahalanobis", "KNN", "MultiMahalanobis", "RMD", "EnergyBased"),
        "eps": (2.0,),
        "steps": 3,
        "limit": 5,
        "held_out": 40,
        "ood_limit": 5,
        "fit_limit": 100,
        "batch_size": 2,
        "out": out,
    }
    return AuditSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def whole(pictures: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audits") / "whole"
    run_audit(settings(pictures, out, detector=("tests.factories:Norm",)))
    return out


def test_a_headless_encoder_is_audited_with_the_classes_of_the_folders(whole: Path) -> None:
    audit = open_audit(whole)
    results = audit.read_results()
    assert {row["name"] for row in results["detectors"]} == {*HEADLESS, "Norm"}
    assert results["failures"] == {}
    subject = results["subject"]
    assert (subject["kind"], subject["classes"], subject["latent_dim"]) == ("bare encoder", None, 64)
    assert subject["labels"] == "those of the training images"
    assert subject["train_accuracy"] is subject["test_accuracy"] is None
    fit = audit.read_fit("Mahalanobis")
    assert fit is not None
    assert len(fit["mu"]) == 10  # a mean per folder
    reasons = {absent["name"]: absent["reason"] for absent in results["absent"]}
    assert reasons["EnergyBased"] == "it needs logits, and the encoder has no classification head"
    page = audit_markdown(results)
    assert page.startswith("# Audit\n\nBare encoder: ")
    assert "- EnergyBased: it needs logits" in page
    assert draw_audit(audit, whole / "figures")


def test_a_headless_encoder_without_classes(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """RMD compares classes and is not applicable; the others fit one Gaussian, and the report says so."""
    results = run_audit(settings(pictures, tmp_path, train=str(pictures[2]), attacks=("latent",))).read_results()
    assert {row["name"] for row in results["detectors"]} == HEADLESS - {"RMD"}
    assert results["subject"]["labels"] == "one class for all"
    reasons = {absent["name"]: absent["reason"] for absent in results["absent"]}
    assert reasons["RMD"].startswith("expected training images of at least 2 classes, got 1")
    assert "classes of the training images: one class for all" in audit_markdown(results)


@pytest.mark.parametrize(
    "encoder", ["embedded,size=64,num_classes=0", "timm:resnet18,weights=none,num_classes=0,size=64"]
)
@pytest.mark.filterwarnings("ignore:.* has random weights")
def test_a_headless_encoder_from_the_command_line(
    encoder: str, pictures: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test, photographs = pictures
    done = oodattack(
        capsys,
        *("audit", "--encoder", encoder, "--train", train, "--test", test, "--start", photographs),
        *("--detectors", "KNN,Mahalanobis,MaxLogit", "--steps", 2, "--limit", 2, "--fit-limit", 20),
        *("--batch-size", 2, "--out", tmp_path / "audit"),
    )
    assert done.code == 0, done.err
    assert "KNN" in done.out
    assert "left out  MaxLogit: it needs logits" in " ".join(done.out.split()).replace("left out", "left out ")


def test_a_model_of_images_is_audited(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """All kinds of attack are applied to its own score, along with detectors that read its latent."""
    results = run_audit(
        settings(pictures, tmp_path, encoder="python:tests.factories:density", detectors=("ModelScore", "KNN"))
    ).read_results()
    assert results["failures"] == {}
    rows = {row["name"]: row for row in results["detectors"]}
    assert set(rows) == {"ModelScore", "KNN"}
    assert {found["kind"] for found in rows["ModelScore"]["attacked"].values()} == set(KINDS)
    assert rows["ModelScore"]["applicable"]["direct"].startswith("gradient of the score (on 100 %")
    assert results["subject"]["kind"] == "model of images"


def test_attacks_are_saved_in_shards_of_fixed_rows(
    whole: Path, pictures: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    names = {file.name for file in whole.glob("attacks/*/*/*.parquet")}
    assert names == {"00000-00002.parquet", "00002-00004.parquet", "00004-00005.parquet"}
    shutil.copytree(whole, tmp_path / "audit")
    middle = [path / "00002-00004.parquet" for path in (tmp_path / "audit").glob("attacks/*/*")]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "audit").glob("attacks/*/*/*") if path not in middle}
    for path in middle:
        path.unlink()
    run_audit(settings(pictures, tmp_path / "audit", detector=("tests.factories:Norm",)))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert differences(Audit(whole), Audit(tmp_path / "audit")) == []


def test_a_shard_records_how_it_was_computed(whole: Path) -> None:
    metadata = pq.read_schema(next(whole.glob("attacks/noise/direct-KNN-*/00004-00005.parquet"))).metadata
    record = json.loads(metadata[b"oodattack"])
    assert record["batch_sizes"] == [1]
    assert record["machine"]["device"] == "cpu"


class Remote:
    """An engine that pickles the work and every chunk, as for a worker, and takes the chunks in reverse order."""

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        sent = pickle.loads(pickle.dumps(work))
        for chunk in reversed(list(chunks)):
            yield chunk, sent(pickle.loads(pickle.dumps(chunk)), lambda step: None)


def test_another_engine_gives_the_same_audit(pictures: tuple[Path, Path, Path], tmp_path: Path, whole: Path) -> None:
    run_audit(settings(pictures, tmp_path / "audit", detector=("tests.factories:Norm",)), engine=Remote())
    assert differences(Audit(whole), Audit(tmp_path / "audit")) == []
    results = [Audit(path).read_results() for path in (whole, tmp_path / "audit")]
    assert results[0]["detectors"] == results[1]["detectors"]


@pytest.mark.parametrize(
    ("old", "shard"), [(1, "direct-KNN-2-3/00000.parquet"), (2, "direct-KNN-2-3/00000-00002.parquet")]
)
def test_an_audit_of_an_old_format_is_not_resumed(
    old: int, shard: str, pictures: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Before format 3, attacks had no set of starts."""
    (tmp_path / "attacks" / shard).parent.mkdir(parents=True)
    (tmp_path / "attacks" / shard).touch()
    (tmp_path / "audit.json").write_text(json.dumps({"format": old, "settings": {}}))
    message = rf"expected an audit of format 6 in .*, got format {old}, which .* cannot resume; choose another --out"
    with pytest.raises(InputError, match=message):
        run_audit(settings(pictures, tmp_path))
