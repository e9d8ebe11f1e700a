"""The audit as a whole: it resumes where it stopped, can be extended, and survives a faulty detector."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from oodattack.auditing.kinds import KINDS
from oodattack.auditing.plan import plan
from oodattack.auditing.store import open_audit
from oodattack.core.errors import InputError, WriteError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.detectors import Loader, Own, Subject, make_subject
from oodattack.encoders import load_encoder
from oodattack.engines import Progress
from oodattack.images import decode, fit
from oodattack.pipelines.audit import run_audit
from oodattack.report.audit_figures import draw_audit
from oodattack.report.audit_table import audit_markdown
from oodattack.settings import AuditSettings
from tests.digits import write_photographs
from tests.factories import Norm

pytestmark = pytest.mark.usefixtures("few_resamples")

FEW = ("MaxSoftmax", "KNN", "OpenMax", "Gram", "Mahalanobis")
STEPS = 4


@pytest.fixture(scope="module")
def pictures(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return *digits, write_photographs(tmp_path_factory.mktemp("ood") / "photographs", 5)


def settings(pictures: tuple[Path, Path, Path], out: Path, **changes: Any) -> AuditSettings:
    train, test, _ = pictures
    values: dict[str, Any] = {
        "encoder": "python:tests.factories:small",
        "train": str(train),
        "test": str(test),
        "start": ("noise",),
        "detectors": FEW,
        "eps": (2.0,),
        "steps": STEPS,
        "limit": 6,
        "held_out": 30,
        "ood_limit": 6,
        "fit_limit": 200,
        "batch_size": 4,
        "out": out,
    }
    return AuditSettings(**{**values, **changes})


def same(one: Path, other: Path) -> None:
    """Check that two audits have the same scores and results."""
    first, second = (pq.read_table(path / "scores.parquet").to_pandas() for path in (one, other))
    keys = ["detector", "set", "row"]
    first, second = (table.sort_values(keys).reset_index(drop=True) for table in (first, second))
    assert first[keys].equals(second[keys])
    assert (first["score"] - second["score"]).abs().max() == 0
    results = [json.loads((path / "results.json").read_text()) for path in (one, other)]
    for name in ("detectors", "attacks", "outside", "absent", "failures"):
        assert results[0][name] == results[1][name], name


class Stop(KeyboardInterrupt):
    pass


@pytest.fixture(scope="module")
def whole(pictures: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audits") / "whole"
    run_audit(settings(pictures, out))
    return out


def kept(audit: Path) -> dict[Path, int]:
    """The fits and the attacked images of an audit, and when each file was written."""
    return {path: path.stat().st_mtime_ns for path in audit.glob("*/**/*.*") if "hashes" not in path.parts}


def test_a_stopped_audit_resumes_to_the_same_results(
    pictures: tuple[Path, Path, Path], tmp_path: Path, whole: Path
) -> None:
    """The audit is stopped once in each of its stages, the last time after all attacks."""
    before: dict[Path, int] = {}
    for where in ("fitting OpenMax", "attacking: informed", "attacking: direct KNN", "scoring noise/aimed"):

        def stop(stage: Progress, where: str = where) -> None:
            if stage.name.startswith(where) and (stage.done or "fitting" in where or "scoring" in where):
                raise Stop

        with pytest.raises(Stop):
            run_audit(settings(pictures, tmp_path / "audit"), on_progress=stop)
        after = kept(tmp_path / "audit")
        assert before.items() < after.items()  # nothing is computed twice
        before = after
    run_audit(settings(pictures, tmp_path / "audit"))
    assert kept(tmp_path / "audit") == before
    same(tmp_path / "audit", whole)


def test_a_killed_audit_resumes(pictures: tuple[Path, Path, Path], tmp_path: Path, whole: Path) -> None:
    train, test, _ = pictures
    command = [
        *(sys.executable, "-m", "oodattack", "audit", "--encoder", "python:tests.factories:small"),
        *("--train", train, "--test", test, "--start", "noise", "--held-out", "30", "--ood-limit", "6"),
        *("--detectors", ",".join(FEW), "--eps", "2", "--steps", STEPS, "--limit", "6", "--fit-limit", "200"),
        *("--batch-size", "4", "--out", tmp_path / "audit"),
    ]
    arguments = [str(part) for part in command]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("attacking: direct"):
            process.kill()
            break
    process.wait()
    process.stderr.close()
    assert process.returncode < 0
    before = kept(tmp_path / "audit")
    assert before
    assert not (tmp_path / "audit" / "results.json").exists()
    run_audit(settings(pictures, tmp_path / "audit"))
    assert before.items() < kept(tmp_path / "audit").items()
    same(tmp_path / "audit", whole)


def test_a_finished_audit_can_be_extended(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """By detectors, radii, budgets and sets of starts; nothing is computed again."""
    out = tmp_path / "audit"
    few: dict[str, Any] = {"detectors": ("KNN",), "start": (), "ood": (str(pictures[2]),), "limit": 3}
    first = run_audit(settings(pictures, out, **few))
    assert list(first.read_results()["detectors"][0]["sets"]) == ["photographs"]  # --ood alone is enough
    before = kept(out)
    scores = {key: values for key, values in first.read_scores().items() if "/" in key[1]}
    more = {"detectors": ("KNN", "MaxLogit"), "eps": (2.0, 4.0), "budget": ("2",), "start": ("noise",)}
    audit = run_audit(settings(pictures, out, **{**few, **more}))
    results = audit.read_results()
    assert before.items() < kept(out).items()
    assert all(torch.equal(audit.read_scores()[key], values) for key, values in scores.items())
    assert {row["name"] for row in results["detectors"]} == {"KNN", "MaxLogit"}
    keys = {
        f"{name}/{kind}"
        for name in ("photographs", "noise")
        for kind in (
            *("latent-features-2-4", "latent-features-4-2", "informed-logits-2-4", "informed-logits-4-2"),
            *("direct-KNN-4-4", "direct-MaxLogit-2-2", "aimed-KNN-4-2"),
        )
    }
    assert keys < set(results["attacks"])
    page = audit_markdown(results)
    assert "| detector | before | 2 | 4 | two-sided: before | 4 |" in page
    assert "AUROC at eps 4, against the number of steps:" in page
    # Other images under the same name are refused.
    other = write_photographs(tmp_path / "other" / "photographs", 3)
    message = r"expected the set photographs to have the starts of .*photographs.parquet, got others; choose another"
    with pytest.raises(InputError, match=message):
        run_audit(settings(pictures, out, **{**few, "ood": (str(other),)}))


@pytest.mark.parametrize(
    "changed", [{"limit": 5}, {"norm": "linf", "eps": (0.5,)}, {"seed": 1}, {"held_out": 20}, {"restarts": 2}]
)
def test_settings_that_affect_results_cannot_change(
    pictures: tuple[Path, Path, Path], whole: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=f"settings.{next(iter(changed))}"):
        run_audit(settings(pictures, whole, **changed))


class Broken(Norm):
    """A base class for detectors that each break one method."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.subject = subject


class FitFails(Broken):
    def fit(self, loader: Loader) -> None:
        raise RuntimeError("no covariance\ntoday")


class ScoresNan(Broken):
    def score(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), torch.nan)


class OneScore(Broken):
    def score(self, images: Tensor) -> Tensor:
        return torch.zeros(1)


class ReadsFail(Broken):
    def reads(self, images: Tensor) -> Tensor:
        raise RuntimeError("nothing to read")

    def score(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def test_the_detector_in_the_documentation_is_audited(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "audit.md").read_text()
    code = page.partition("## Your own detector")[2].partition("```python\n")[2].partition("```")[0]
    assert len(code[code.index("class") :].splitlines()) <= 25
    (tmp_path / "mydetector.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    changes = {"detectors": ("none",), "detector": ("mydetector:Centroid",)}
    (row,) = run_audit(settings(pictures, tmp_path / "audit", **changes)).read_results()["detectors"]
    assert row["name"] == "Centroid"
    assert {found["kind"] for found in row["attacked"].values()} == set(KINDS)
    assert row["applicable"]["direct"].startswith("gradient of the score (on 100 %")


def test_a_faulty_detector_does_not_affect_the_others(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    own = tuple(f"tests.test_audit:{name}" for name in ("FitFails", "ScoresNan", "OneScore", "ReadsFail"))
    out = tmp_path / "audit"
    results = run_audit(
        settings(pictures, out, detectors=("KNN",), detector=(*own, "tests.factories:Norm"))
    ).read_results()
    absent = {found["name"]: found["reason"] for found in results["absent"]}
    assert absent["FitFails"] == "its fit failed: RuntimeError: no covariance today"
    assert "NaN among them" in absent["ScoresNan"]
    assert "got shape (1,)" in absent["OneScore"]
    names = {row["name"] for row in results["detectors"]}
    assert {"KNN", "Norm", "ReadsFail"} == names
    failed = next(
        reason for key, reason in results["failures"].items() if key.startswith("noise/informed-ReadsFail-2-4-")
    )
    assert "nothing to read" in failed
    for row in results["detectors"]:
        finished = {at["finished"] for found in row["sets"].values() for at in found["radii"]}
        assert finished == {row["name"] != "ReadsFail"}
    page = audit_markdown(results)
    assert "its fit failed: RuntimeError: no covariance today" in page
    assert "nothing to read" in page


class InfiniteScores(Norm):
    """A detector that gives half of the images an infinite score."""

    def fit(self, loader: Loader) -> None:
        with torch.no_grad():
            self.middle = torch.cat([self.reads(images)[:, 0] for images, _ in loader]).quantile(0.5)

    def judge(self, reads: Tensor) -> Tensor:
        return reads.square().sum(1) + torch.where(reads[:, 0] > self.middle, torch.inf, 0.0)

    def score(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.judge(self.reads(images))


class NamedReading(Norm):
    """A detector that names what it reads."""

    reading = "mine"


class UnsafeReading(Norm):
    """A detector whose reading, used as a file name, would lie outside the audit."""

    reading = "layer/../../x"


def test_infinite_scores_are_audited_and_drawn(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "audit"
    audit = run_audit(
        settings(pictures, out, detectors=("none",), detector=("tests.test_audit:InfiniteScores",), limit=12)
    )
    inside = audit.read_scores()["InfiniteScores", "in"]
    assert 1 < inside.isinf().sum() < len(inside)  # more than a twentieth, so that the threshold is infinite
    results = audit.read_results()
    assert results["failures"] == {}
    (row,) = results["detectors"]
    assert row["verdict"] != "unfinished"
    assert row["sets"]["noise"]["radii"][-1]["threshold"] is None
    assert {path.name for path in draw_audit(audit, out / "figures")} >= {"histograms.png", "roc.png"}
    results["outside"]["noise/latent-features-2-4"]["encoders"]["w"] = {
        "mape": None,
        "mape_before": None,
    } | dict.fromkeys(("nearer_start", "flagged", "flagged_start"), 0.5)
    assert "| w | – | – | 50 % |" in audit_markdown(results)


def test_attacks_on_what_a_users_detector_reads_are_saved_under_its_digest(
    pictures: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"detectors": ("none",), "detector": ("tests.test_audit:NamedReading",)}
    results = run_audit(settings(pictures, tmp_path / "audit", **changes)).read_results()
    (key,) = (key for key in results["attacks"] if key.startswith("noise/informed"))
    assert key.startswith("noise/informed-mine-2-4-")  # and the digest of its source
    assert key in results["detectors"][0]["attacked"]
    # If two detectors share a reading, the first one computes it, so the key has the digest of its source.
    subject = make_subject(load_encoder("python:tests.factories:small"))
    readers = {name: Own(NamedReading(subject), digit * 64) for name, digit in (("a", "1"), ("b", "2"))}
    two = settings(pictures, tmp_path / "audit", **changes)
    keys = [found.key for found in plan(two, ["noise"], readers, ())]
    assert "noise/informed-mine-2-4-11111111" in keys
    with pytest.raises(InputError, match=r"reading to be a name of letters, .*, got 'layer/../../x'"):
        run_audit(settings(pictures, tmp_path / "other", **changes | {"detector": ("tests.test_audit:UnsafeReading",)}))


def test_a_full_disk_stops_an_audit(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more can be saved, so continuing would waste work."""
    write_table = pq.ParquetWriter.write_table

    def full(self: pq.ParquetWriter, table: Any, *rest: Any, **options: Any) -> None:
        if "mape" in table.column_names:  # a shard of an attack
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(self, table, *rest, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WriteError, match=r"cannot write .*latent-features-2-4.*No space left on device; what was"):
        run_audit(settings(pictures, tmp_path / "audit", detectors=("KNN",)))
    monkeypatch.undo()
    assert run_audit(settings(pictures, tmp_path / "audit", detectors=("KNN",))).read_results()["failures"] == {}


def test_damaged_training_images_are_reported(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    train = tmp_path / "train"
    shutil.copytree(pictures[0], train)
    damaged = sorted(train.glob("*/*.png"))[3]
    damaged.write_bytes(b"broken")
    changes = {"train": str(train), "detectors": ("MaxLogit",), "attacks": ("latent",), "fit_limit": 10**6}
    results = run_audit(settings(pictures, tmp_path / "audit", **changes)).read_results()
    assert damaged.name in str(results["skipped"]["train"])
    assert "## Images that could not be decoded" in audit_markdown(results)
    assert damaged.name in audit_markdown(results).replace("\\", "")
    # An OOD set from a folder of the same name is a different set.
    more = settings(pictures, tmp_path / "audit", **changes, ood=(str(train),))
    grown = run_audit(more).read_results()
    assert "train-2" in grown["sets"]
    assert damaged.name in str(grown["skipped"]["train"])


def test_a_witness_is_evaluated_on_its_own_latents(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The witness gets the images at its own input size, the attacked network at that of the audit."""
    witness = "python:tests.factories:tiny"
    results = run_audit(
        settings(pictures, tmp_path, detectors=("MaxLogit",), attacks=("latent",), witness=(witness,))
    ).read_results()
    judged = results["outside"]["noise/latent-features-2-4"]["encoders"]
    assert list(judged) == ["python:tests.factories:small", witness]
    table = pq.read_table(tmp_path / "samples" / "noise.parquet").to_pylist()
    shards = sorted((tmp_path / "attacks" / "noise" / "latent-features-2-4").glob("*.parquet"))
    outs = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    encoder = load_encoder(witness, device="cpu").eval()

    def latents(cells: list[dict[str, Any]]) -> Tensor:
        images = [fit(decode(cell["bytes"]), encoder.input_size) for cell in cells]
        with torch.no_grad():
            found: Tensor = encoder(dequantize(torch.stack(images)))
        return found

    z_in, z_start = (latents([row[name] for row in table]) for name in ("x_in", "start"))
    z_out = latents([row["image"] for row in outs])
    assert encoder.input_size != (16, 16)
    assert judged[witness]["mape"] == pytest.approx(float(mape(z_out, z_in).quantile(0.5)), rel=1e-4)
    nearer = ((z_out - z_start).norm(dim=1) < (z_out - z_in).norm(dim=1)).double().mean()
    assert judged[witness]["nearer_start"] == pytest.approx(float(nearer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": ("3,3",)}, "expected each budget once, got 3, 3"),
        ({"ood": ("a", "a")}, "expected each ood once, got a, a"),
        ({"witness": ("embedded", "embedded")}, "expected each witness once"),
    ],
)
def test_duplicates_are_rejected(pictures: tuple[Path, Path, Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(pictures, Path("unused"), **changes)


def test_names_are_escaped_in_the_report(whole: Path) -> None:
    results = open_audit(whole).read_results()
    results["subject"]["encoder"] = "<script>alert(1)</script> | `x` [a](b)"
    results["absent"] = [{"name": "*a*", "reason": "<img src=x>\n# heading"}]
    page = audit_markdown(results)
    assert "<script" not in page
    assert "<img" not in page
    assert "\n# heading" not in page
    assert "[a](b)" not in page


def test_one_of_a_kind_is_in_the_singular_in_the_report(whole: Path) -> None:
    results = open_audit(whole).read_results()
    results["environment"]["threads"] = results["subject"]["train_images"] = results["settings"]["steps"] = 1
    page = audit_markdown(results)
    assert " ball, 1 step per try" in page
    assert ", 1 try per attack" in page
    assert ", 1 thread.\n" in page
    assert "fitted on 1 training image;" in page


def test_predicted_classes_stand_in_for_classes_the_network_lacks(
    pictures: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    results = run_audit(settings(pictures, tmp_path, train=str(pictures[2]), detectors=("MaxLogit",))).read_results()
    assert results["subject"]["train_accuracy"] is None
    assert results["subject"]["test_accuracy"] is None


def test_few_test_images_have_the_class_numbers_of_the_training_folders(whole: Path) -> None:
    subject = open_audit(whole).read_results()["subject"]
    assert subject["train_accuracy"] is not None
    assert subject["test_accuracy"] is not None


def test_linf_and_an_infinite_eps(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    changes = {"detectors": ("MaxLogit",), "norm": "linf", "eps": (8 / 255, float("inf"))}
    results = run_audit(settings(pictures, tmp_path, **changes)).read_results()
    found = next(value for key, value in results["outside"].items() if key.startswith("noise/latent-features-0.03137"))
    assert found["distance_linf"] <= 8 / 255 + 1e-6
    assert "noise/latent-features-inf-4" in results["attacks"]
    audit_markdown(results)
