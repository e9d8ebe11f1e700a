"""`verify` of an audit: its files, images, scores and tables."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from oodattack.auditing.layout import LAYOUT as AUDIT
from oodattack.core.errors import InputError
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.verify import Rescoring, verify
from oodattack.pipelines.verify.leaves import dotted, leaves
from oodattack.settings import AuditSettings
from oodattack.storage import hashes
from tests.digits import write_photographs
from tests.factories import Norm
from tests.verifying import TRUSTED, differing, edit_json, edit_rows, verified_without_torch

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def finished_audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit with all kinds of attacks, a detector of our own, an ensemble, a witness and a broken image."""
    folder = tmp_path_factory.mktemp("verify")
    photographs = write_photographs(folder / "photographs", 5)
    (photographs / "broken.png").write_bytes(b"no image")
    return run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            ood=(str(photographs),),
            detectors=("MaxSoftmax", "KNN"),
            detector=("tests.factories:Norm",),
            jointly=("MaxSoftmax", "KNN"),
            witness=("python:tests.factories:tiny",),
            eps=(1.0, 2.0),
            steps=2,
            limit=5,
            held_out=20,
            ood_limit=6,
            fit_limit=60,
            batch_size=4,
            device="cpu",
            out=folder / "audit",
        )
    ).path


@pytest.fixture
def audit(finished_audit: Path, tmp_path: Path) -> Path:
    """A copy of the audit that a test may break."""
    return Path(shutil.copytree(finished_audit, tmp_path / "audit"))


def test_what_was_written_has_no_differences(finished_audit: Path) -> None:
    found = verify(finished_audit, TRUSTED)
    assert found.differences == []
    assert found.checked["scores"] == pq.read_table(finished_audit / "scores.parquet").num_rows
    attacked = sum(pq.read_table(path).num_rows for path in finished_audit.glob("attacks/*/*/*.parquet"))
    assert found.checked["PNGs re-scored"] == attacked
    names = {path.relative_to(finished_audit).as_posix() for path in AUDIT.files(finished_audit)}
    assert set(hashes.recorded(finished_audit)) == names
    assert {"fits/KNN.pt", "samples/photographs.parquet", "results.json"} < names
    # The same encoder under another name, by which the results do not call it.
    assert differing(verify(finished_audit, Rescoring("python:tests.factories:small,size=16", "cpu", trust=True))) == []


class Infinite(Norm):
    """A detector that rejects everything; JSON has no number for its threshold."""

    def score(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), torch.inf)


def test_an_audit_with_failed_attacks_has_no_differences(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """What could not be attacked is not missing from the tables that are computed again."""
    audit = run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            start=("noise",),
            detectors=("KNN",),
            detector=("tests.test_audit:ReadsFail", "tests.test_verify_audit:Infinite"),
            eps=(2.0,),
            steps=2,
            limit=5,
            held_out=20,
            ood_limit=5,
            fit_limit=60,
            batch_size=4,
            device="cpu",
            out=tmp_path / "audit",
        )
    )
    assert audit.read_results()["failures"]
    assert differing(verify(audit.path, TRUSTED)) == []


def test_a_changed_score_is_found(audit: Path) -> None:
    path = audit / "scores.parquet"
    [place, row] = _nth(path, "KNN", "photographs", 2)

    def change(rows: list[dict[str, Any]]) -> None:
        rows[place]["score"] *= 1.01

    edit_rows(path, change)
    assert differing(verify(audit)) == [("scores.parquet", None, "SHA-256")]
    # A forger also changes the hash, so that only scoring the image again finds it, and the tables it contradicts.
    hashes.record(audit, path)
    assert differing(verify(audit)) == []
    found = differing(verify(audit, TRUSTED))
    assert ("scores.parquet", row, "score of KNN on photographs") in found
    assert {what for file, _, what in found if file == "scores.parquet"} <= {
        "score of KNN on photographs",
        "score of jointly on photographs",
    }


def test_tables_that_fit_forged_scores_contradict_the_images(audit: Path) -> None:
    scores, file = audit / "scores.parquet", audit / "results.json"
    [place, _] = _nth(scores, "KNN", "photographs", 2)
    [joint, _] = _nth(scores, "jointly", "photographs", 4)

    def lower(rows: list[dict[str, Any]]) -> None:
        rows[place]["score"] = rows[joint]["score"] = -1e9

    edit_rows(scores, lower)
    hashes.record(audit, scores)
    results = json.loads(file.read_text())
    by_name = {row["name"]: row for row in results["detectors"]}
    for difference in verify(audit, TRUSTED).differences:
        if difference.file == "results.json":
            part, *keys = difference.what.split(".")
            value: Any = by_name if part == "detectors" else results[part]
            for key in keys[:-1]:
                value = value[int(key) if isinstance(value, list) else key]
            value[keys[-1]] = difference.measured
    file.write_text(json.dumps(results))
    hashes.record(audit, file)
    found = differing(verify(audit, TRUSTED))
    assert ("scores.parquet", 2, "score of KNN on photographs") in found
    assert ("scores.parquet", 4, "score of jointly on photographs") in found
    assert ("results.json", None, "detectors.KNN.sets.photographs.clean.auroc.value") in found
    assert all(what.endswith("auroc.value") for file, _, what in found if file == "results.json")


def _nth(path: Path, detector: str, images: str, row: int) -> tuple[int, int]:
    rows = pq.read_table(path, columns=["detector", "set", "row"]).to_pylist()
    return rows.index({"detector": detector, "set": images, "row": row}), row


def test_a_changed_setting_is_found(audit: Path) -> None:
    edit_json(audit / "audit.json", lambda header: header["settings"].update(seed=1))
    assert differing(verify(audit)) == [("audit.json", None, "SHA-256"), ("results.json", None, "settings.seed")]


def test_an_image_outside_the_ball_is_found(audit: Path) -> None:
    """A forgery whose hash, distance and MAPE fit: the ball, scores and tables contradict it."""
    name = "attacks/photographs/latent-features-1-2/00000-00004.parquet"
    samples = pq.read_table(audit / "samples" / "photographs.parquet").to_pylist()

    def replaced(rows: list[dict[str, Any]]) -> None:
        x_in, start = (_pixels(samples[1][column]["bytes"]) for column in ("x_in", "start"))
        rows[1]["image"]["bytes"] = samples[1]["x_in"]["bytes"]
        rows[1] |= {"mape": 0.0, "distance": float((x_in - start).norm())}

    edit_rows(audit / name, replaced)
    hashes.record(audit, audit / name)
    assert differing(verify(audit)) == []
    differences = differing(verify(audit, TRUSTED))
    assert (name, 1, "distance from the start") in differences
    assert ("scores.parquet", 1, "score of KNN on photographs/latent-features-1-2") in differences
    assert not any(row not in (None, 1) for _, row, _ in differences)


def _pixels(png: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png)))).double() / 255


def test_forged_tables_are_found(audit: Path) -> None:
    def improve(results: Any) -> None:
        [row] = [row for row in results["detectors"] if row["name"] == "KNN"]
        row["sets"]["photographs"]["radii"][-1]["auroc"]["value"] = 0.123456
        row["verdict"] = "bent"
        key = "photographs/latent-features-2-2"
        results["attacks"][key]["mape"] *= 0.5
        results["digests"]["in"] = "0" * 64

    edit_json(audit / "results.json", improve)
    hashes.record(audit, audit / "results.json")
    assert differing(verify(audit)) == [("results.json", None, "digests.in")]
    found = {what for _, _, what in differing(verify(audit, TRUSTED))}
    assert {
        "detectors.KNN.sets.photographs.radii.1.auroc.value",
        "detectors.KNN.verdict",
        "attacks.photographs/latent-features-2-2.mape",
        "digests.in",
    } == found


def test_every_value_in_the_results_is_computed_again(audit: Path) -> None:
    """All of them are changed at once, and each is named, except for what results.json alone knows."""
    file = audit / "results.json"
    results: Any = json.loads(file.read_text())
    parts = ("subject", "attacks", "detectors", "jointly", "outside")
    expected = set()
    for path, value in list(leaves({part: results[part] for part in parts})):
        if path[-1] == "name":
            continue  # level 1 compares it with scores.parquet
        place: Any = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = _other(path[-1], value)
        if path[0] == "detectors":
            path = ("detectors", results["detectors"][path[1]]["name"], *path[2:])
        expected.add(dotted(path))
    results["skipped"]["photographs"] = {"another.png": "a reason"}
    file.write_text(json.dumps(results))
    hashes.record(audit, file)
    assert differing(verify(audit)) == []
    assert {what for _, _, what in differing(verify(audit, TRUSTED))} == {
        *expected,
        "skipped.photographs.another.png",
        "skipped.photographs.broken.png",
    }


def _other(key: str | int, value: Any) -> Any:
    """Another value that the schema of the results accepts."""
    match key, value:
        case "kind", _:
            return "aimed" if value != "aimed" else "direct"
        case "verdict", _:
            return "held" if value != "held" else "bent"
        case _, bool():
            return not value
        case _, int():
            return value + 1
        case _, float():
            return value * 1.5 if value > 1 else value + 0.3 if value < 0.6 else value - 0.3
        case "attack" | "pipeline", None:
            return "another"
        case _, None:
            return 0.5
    return "another"


def test_results_may_differ_as_on_another_machine(audit: Path) -> None:
    """Rounding, other draws of the bootstrap, and on how many images a gradient agrees with differences."""

    def round_otherwise(results: Any) -> None:
        results["subject"]["train_accuracy"] += 5e-4
        for row in results["detectors"]:
            row["applicable"]["direct"] = re.sub(r"\d+ of 8", "6 of 8", row["applicable"]["direct"])
            for found in row["sets"].values():
                found["clean"]["auroc"]["low"] += 0.015
                found["clean"]["auroc"]["value"] *= 1.0005
        for found in results["outside"].values():
            for seen in found["encoders"].values():
                seen["mape"] += 5e-6
        results["skipped"]["photographs"]["broken.png"] = "the reason in another version of Pillow"

    edit_json(audit / "results.json", round_otherwise)
    hashes.record(audit, audit / "results.json")
    assert differing(verify(audit, TRUSTED)) == []


def test_a_detector_or_an_attack_that_was_removed_is_found(audit: Path) -> None:
    """Wherever it was mentioned: what was left out needs a reason."""
    results, scores = audit / "results.json", audit / "scores.parquet"
    key = "photographs/direct-KNN-2-2"

    def without_attack(results: Any) -> None:
        del results["attacks"][key]
        for row in results["detectors"]:
            row["attacked"].pop(key, None)

    edit_json(results, without_attack)
    edit_rows(scores, lambda rows: _keep(rows, lambda row: row["set"] != key))
    shutil.rmtree(audit / "attacks" / key)
    hashes.settle(audit, [])
    for file in (results, scores):
        hashes.record(audit, file)
    assert differing(verify(audit)) == []
    found = verify(audit, TRUSTED)
    assert set(differing(found)) == {
        (f"attacks/{key}", None, "images"),
        ("scores.parquet", None, f"number of scores of KNN on {key}"),
    }
    assert found.unchecked == ["results.json was not computed again: what it follows from is incomplete"]

    edit_json(results, lambda results: _keep(results["detectors"], lambda row: row["name"] != "Norm"))
    edit_rows(scores, lambda rows: _keep(rows, lambda row: row["detector"] != "Norm"))
    for file in (results, scores):
        hashes.record(audit, file)
    assert ("results.json", None, "absent") in differing(verify(audit, TRUSTED))


def _keep(rows: list[Any], wanted: Callable[[Any], bool]) -> None:
    rows[:] = [row for row in rows if wanted(row)]


def test_what_a_witness_sees_is_not_computed_without_it(audit: Path) -> None:
    """A witness may have another name or no weights on this machine."""

    def lose(results: Any) -> None:
        results["settings"]["witness"] = ["python:tests.factories:lost"]
        for found in results["outside"].values():
            found["encoders"]["python:tests.factories:lost"] = found["encoders"].pop("python:tests.factories:tiny")

    edit_json(audit / "results.json", lose)
    hashes.record(audit, audit / "results.json")
    found = verify(audit, TRUSTED)
    assert found.differences == []
    [reason] = found.unchecked
    assert reason.startswith("what the witness python:tests.factories:lost sees was not computed again: ")


def test_fits_that_cannot_be_restored_are_found(audit: Path) -> None:
    for name in ("KNN", "jointly"):
        (audit / "fits" / f"{name}.pt").write_bytes(b"no fit")
        hashes.record(audit, audit / "fits" / f"{name}.pt")
    found = verify(audit, TRUSTED)
    assert differing(found) == [("fits/KNN.pt", None, "fit"), ("fits/jointly.pt", None, "fit")]
    assert found.unchecked == ["results.json was not computed again: what it follows from is incomplete"]


def test_images_and_tables_that_cannot_be_used_are_found(audit: Path) -> None:
    """They are reported, and what depends on them is not computed, without an error."""
    folder = audit / "attacks" / "photographs" / "latent-features-1-2"
    name = folder.relative_to(audit).as_posix()
    small = io.BytesIO()
    Image.new("RGB", (8, 16)).save(small, "PNG")

    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[0]["image"]["bytes"] = small.getvalue()
        rows[1]["image"]["bytes"] = b"no PNG"
        rows[2]["distance"] = None
        rows[3]["row"] = 99

    first = folder / "00000-00004.parquet"
    edit_rows(first, spoil)
    hashes.record(audit, first)
    found = verify(audit, TRUSTED)
    file = f"{name}/{first.name}"
    assert differing(found) == [
        (name, None, "rows"),
        (file, 0, "size of image"),
        (file, 1, "image"),
        (file, 2, "distance"),
    ]
    assert found.unchecked == ["results.json was not computed again: what it follows from is incomplete"]

    pq.write_table(pq.read_table(first).drop(["distance"]), first)
    hashes.record(audit, first)
    found = verify(audit, TRUSTED)
    assert differing(found) == [(file, None, "type of column distance"), (name, None, "rows")]
    assert found.unchecked == [f"no image was scored again: {file} cannot be read, or has other columns"]


def test_a_forged_figure_of_an_attack_contradicts_its_images_and_the_results(audit: Path) -> None:
    name = "attacks/photographs/latent-features-2-2/00000-00004.parquet"

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row |= {"mape": row["mape"] / 2, "gradient_evaluations": 1}

    edit_rows(audit / name, change)
    hashes.record(audit, audit / name)
    assert differing(verify(audit)) == []
    found = differing(verify(audit, TRUSTED))
    assert [row for file, row, what in found if (file, what) == (name, "mape")] == [0, 1, 2, 3]
    key = "attacks.photographs/latent-features-2-2"
    assert {f"{key}.mape", f"{key}.gradient_evaluations"} < {what for _, _, what in found}


def test_other_samples_than_the_images_are_found(audit: Path) -> None:
    """x_in and starts in samples/ are those of the collections, row by row."""
    file = audit / "samples" / "photographs.parquet"

    def exchange(rows: list[dict[str, Any]]) -> None:
        rows[0]["x_in"], rows[1]["start_name"] = rows[1]["x_in"], rows[0]["start_name"]
        rows.pop()

    edit_rows(file, exchange)
    hashes.record(audit, file)
    found = differing(verify(audit, TRUSTED))
    assert {(row, what) for name, row, what in found if name == "samples/photographs.parquet"} == {
        (0, "x_in"),
        (1, "start_name"),
        (None, "number of rows"),
    }
    file.unlink()
    hashes.settle(audit, [])
    assert differing(verify(audit)) == []
    assert differing(verify(audit, TRUSTED)) == [("samples/photographs.parquet", None, "file")]


def test_scores_that_are_missing_empty_in_another_order_or_of_nothing_are_found(audit: Path) -> None:
    """They are reported, and what depends on them is not computed, without an error."""
    scores = audit / "scores.parquet"
    for change in (
        lambda rows: rows.pop(),
        lambda rows: rows[3].update(score=None),
        lambda rows: rows.reverse(),
        lambda rows: rows.append({**rows[0], "detector": "another"}),
    ):
        shutil.copy(scores, audit / "kept")
        edit_rows(scores, change)
        hashes.record(audit, scores)
        spoilt = verify(audit, TRUSTED)
        assert {difference.file for difference in spoilt.differences} == {"scores.parquet"}
        assert spoilt.unchecked == ["no image was scored again: scores.parquet does not fit results.json"]
        shutil.move(audit / "kept", scores)


def test_missing_files_are_found(audit: Path) -> None:
    (audit / "fits" / "KNN.pt").unlink()
    shutil.rmtree(audit / "attacks" / "photographs" / "latent-features-1-2")
    found_there = differing(verify(audit))
    assert ("fits/KNN.pt", None, "SHA-256") in found_there
    assert ("attacks/photographs/latent-features-1-2", None, "rows") in found_there


def test_other_images_than_those_of_the_audit_are_found(audit: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    write_photographs(photographs, 5)
    first = sorted(photographs.iterdir())[0]
    image = Image.open(first).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(first)
    edit_json(audit / "results.json", lambda results: results["settings"].update(ood=[str(photographs)]))
    hashes.record(audit, audit / "results.json")
    found = differing(verify(audit, TRUSTED))
    assert ("results.json", None, "digests.photographs") in found
    # With another number of images, tables cannot be computed from the scores.
    first.unlink()
    spoilt = verify(audit, TRUSTED)
    assert {
        ("results.json", None, "digests.photographs"),
        ("scores.parquet", None, "number of scores of KNN on photographs"),
    } < set(differing(spoilt))
    assert spoilt.unchecked == ["results.json was not computed again: what it follows from is incomplete"]


def test_images_that_are_elsewhere_come_with_a_remedy(audit: Path) -> None:
    edit_json(audit / "results.json", lambda results: results["settings"].update(test="digits/gone"))
    with pytest.raises(InputError, match=r"digits/gone.*where the command ran: run this there"):
        verify(audit, TRUSTED)


def test_an_unfinished_audit_has_no_differences(audit: Path) -> None:
    for name in ("results.json", "scores.parquet"):
        (audit / name).unlink()
    hashes.settle(audit, [])
    found = verify(audit, TRUSTED)
    assert found.differences == []
    assert found.unchecked == [
        "there is no results.json: the audit is unfinished",
        "no image was scored again: there is no valid results.json of format 6",
    ]


def test_deleted_hashes_hide_nothing_in_a_finished_audit(audit: Path) -> None:
    names = set(hashes.recorded(audit))
    shutil.rmtree(audit / "hashes")
    assert set(differing(verify(audit))) == {(name, None, "SHA-256") for name in names}


def test_a_number_that_json_does_not_have_is_found(audit: Path) -> None:
    (audit / "results.json").write_text('{"format": NaN}')
    assert ("results.json", None, "JSON") in differing(verify(audit))


def test_level_1_needs_no_torch(finished_audit: Path) -> None:
    assert verified_without_torch(finished_audit)


def test_code_that_an_audit_names_does_not_run_without_trust(audit: Path) -> None:
    with pytest.raises(
        InputError, match=r"run here: tests\.factories:Norm, python:tests\.factories:tiny; pass --trust"
    ):
        verify(audit, Rescoring("python:tests.factories:small"))
