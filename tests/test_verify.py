"""`verify` finds every kind of damage, edit and forgery, on real runs and audits that are broken on purpose."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from oodattack.auditing.layout import LAYOUT as AUDIT
from oodattack.core.errors import InputError
from oodattack.encoders import load_encoder
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.train import train
from oodattack.pipelines.verify import Findings, Rescoring, verify
from oodattack.runs.store import LAYOUT as RUN
from oodattack.settings import AttackSettings, AuditSettings, TrainSettings
from oodattack.settings.field import fields
from oodattack.storage import hashes
from oodattack.storage.schema import schema
from oodattack.training.layout import LAYOUT as TRAINING
from tests.cli import oodattack
from tests.digits import write_photographs
from tests.factories import tiny
from tests.test_runs import ROOT, settings, write_photos

pytestmark = pytest.mark.usefixtures("few_resamples")

TRUSTED = Rescoring(device="cpu", trust=True)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    return run_attack(settings(write_photos(folder / "photos"), folder / "run", limit=3)).path


@pytest.fixture(scope="module")
def finished_audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit with all kinds of attacks, a detector of our own and an ensemble."""
    folder = tmp_path_factory.mktemp("verify")
    photographs = write_photographs(folder / "photographs", 5)
    return run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            ood=(str(photographs),),
            detectors=("MaxSoftmax", "KNN"),
            detector=("tests.factories:Norm",),
            jointly=("MaxSoftmax", "KNN"),
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
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may break."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def audit(finished_audit: Path, tmp_path: Path) -> Path:
    """A copy of the audit that a test may break."""
    return Path(shutil.copytree(finished_audit, tmp_path / "audit"))


def differing(found: Findings) -> list[tuple[str, int | None, str]]:
    return [(difference.file, difference.row, difference.what) for difference in found.differences]


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2) + "\n")


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a table, which keeps its columns and metadata."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_what_was_written_has_no_differences(finished_run: Path, finished_audit: Path) -> None:
    found = verify(finished_run, TRUSTED)
    assert (found.differences, found.unchecked) == ([], [])
    rows = pq.read_table(finished_run / "shards").num_rows
    assert found.checked["PNGs re-scored"] == found.checked["rows by the settings"] == rows
    assert found.checked["files by their hash"] == 1 + len(list(finished_run.glob("shards/*.parquet")))
    found = verify(finished_audit, TRUSTED)
    assert found.differences == []
    assert found.checked["scores"] == pq.read_table(finished_audit / "scores.parquet").num_rows
    attacked = sum(pq.read_table(path).num_rows for path in finished_audit.glob("attacks/*/*/*.parquet"))
    assert found.checked["PNGs re-scored"] == attacked
    names = {path.relative_to(finished_audit).as_posix() for path in AUDIT.files(finished_audit)}
    assert set(hashes.recorded(finished_audit)) == names
    assert {"fits/KNN.pt", "samples/photographs.parquet", "results.json"} < names


def test_an_audit_with_failed_attacks_has_no_differences(digits: tuple[Path, Path], tmp_path: Path) -> None:
    """What could not be attacked is not missing from the tables that are computed again."""
    audit = run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            start=("noise",),
            detectors=("KNN",),
            detector=("tests.test_audit:ReadsFail",),
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


def test_one_flipped_bit_anywhere_in_a_shard_is_found(run: Path) -> None:
    """Also in the bytes of a PNG, and where a reader of Parquet would not notice it."""
    shard = run / "shards" / "00001.parquet"
    whole = shard.read_bytes()
    columns = pq.read_metadata(shard).row_group(0)
    [pngs] = [
        column
        for column in (columns.column(place) for place in range(columns.num_columns))
        if column.path_in_schema == "image.bytes"
    ]
    inside_a_png = pngs.data_page_offset + pngs.total_compressed_size // 2
    for place in (0, inside_a_png, len(whole) - 100, len(whole) - 1):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert ("shards/00001.parquet", None, "SHA-256") in differing(verify(run))
    shard.write_bytes(whole)
    assert differing(verify(run)) == []


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


def _nth(path: Path, detector: str, images: str, row: int) -> tuple[int, int]:
    rows = pq.read_table(path, columns=["detector", "set", "row"]).to_pylist()
    return rows.index({"detector": detector, "set": images, "row": row}), row


def test_a_changed_setting_is_found(run: Path, audit: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(steps=7))
    assert differing(verify(run)) == [("run.json", None, "SHA-256")]
    edit_json(audit / "audit.json", lambda header: header["settings"].update(seed=1))
    assert differing(verify(audit)) == [("audit.json", None, "SHA-256"), ("results.json", None, "settings.seed")]


def test_a_changed_setting_with_its_hash_contradicts_the_rows(run: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=[1.0, 5.0], norm="linf", seed=9))
    hashes.record(run, run / "run.json")
    rows = pq.read_table(run / "shards").num_rows
    found = differing(verify(run))
    assert len([what for _, _, what in found if what == "eps"]) == rows / 2
    assert len([what for _, _, what in found if what == "norm"]) == rows
    assert [what for _, _, what in differing(verify(run, TRUSTED))].count("seed") == rows


def test_other_weights_are_found(tmp_path: Path, finished_run: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save(tiny().state_dict(), weights)
    encoder = f"python:tests.factories:tiny,weights={weights}"
    photos = write_photos(tmp_path / "photos")
    out = run_attack(settings(photos, tmp_path / "run", encoder=encoder, limit=1, start=("noise",))).path
    assert differing(verify(out, TRUSTED)) == []
    other = tiny()
    with torch.no_grad():
        next(other.parameters())[0, 0, 0, 0] += 1e-3
    torch.save(other.state_dict(), weights)
    assert differing(verify(out)) == []
    found = verify(out, TRUSTED)
    assert differing(found) == [("run.json", None, "SHA-256 of the encoder")]
    assert found.differences[0].measured == load_encoder(encoder, device="cpu").digest()
    assert found.unchecked == ["no image was scored again: the encoder is another one"]
    # Under another name, the same weights are the same encoder. A name of one's own needs no trust.
    torch.save(tiny().state_dict(), weights)
    assert differing(verify(finished_run, Rescoring(encoder, "cpu"))) == []


def test_an_image_outside_the_ball_is_found(run: Path, audit: Path) -> None:
    """A forgery in which everything else is consistent: x_out is x_in itself, with the hash of the forged file."""
    shard = run / "shards" / "00000.parquet"

    def perfect(rows: list[dict[str, Any]]) -> None:
        row = rows[3]
        x_in, start = (_pixels(row[name]["bytes"]) for name in ("x_in", "start"))
        row["image"]["bytes"] = row["x_in"]["bytes"]
        row |= {"mape": 0.0, "mape_parts": [0.0], "distance": float((x_in - start).norm()), "z_out": row["z_in"]}
        row |= {"class_out": row["class_in"], "probability_out": row["probability_in"]}
        rows[3] = row

    edit_rows(shard, perfect)
    hashes.record(run, shard)
    assert differing(verify(run)) == []
    found = verify(run, TRUSTED)
    assert differing(found) == [("shards/00000.parquet", 3, "distance from the start")]
    assert found.differences[0].measured > 4.0 * 1.5
    # In an audit, scores and tables contradict it as well.
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


def test_a_forged_figure_is_named_with_both_values(run: Path) -> None:
    shard = run / "shards" / "00002.parquet"
    stored: list[float] = []

    def better(rows: list[dict[str, Any]]) -> None:
        stored.append(rows[1]["mape"])
        rows[1] |= {"mape": rows[1]["mape"] / 2, "class_out": "7"}
        rows[0]["z_start"][5] += 0.1

    edit_rows(shard, better)
    hashes.record(run, shard)
    found = verify(run, TRUSTED)
    assert differing(found) == [
        ("shards/00002.parquet", 10, "z_start[5]"),
        ("shards/00002.parquet", 11, "mape"),
        ("shards/00002.parquet", 11, "class_out"),
    ]
    assert found.differences[1].measured == pytest.approx(stored[0], rel=1e-3, abs=1e-5)
    assert found.differences[1].stored == pytest.approx(stored[0] / 2)


def test_images_of_more_than_8_bits_and_broken_ones_are_found(run: Path) -> None:
    shard = run / "shards" / "00000.parquet"
    deep = io.BytesIO()
    Image.new("I;16", (32, 32), 30000).save(deep, "PNG")

    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["image"]["bytes"] = deep.getvalue()
        rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:1000]
        rows[2]["start"]["bytes"] = b"no PNG"

    edit_rows(shard, change)
    hashes.record(run, shard)
    found = differing(verify(run, TRUSTED))
    name = "shards/00000.parquet"
    assert {(name, 0, "bits of image"), (name, 0, "colours of image"), (name, 1, "image"), (name, 2, "start")} <= set(
        found
    )
    assert {row for _, row, _ in found} == {0, 1, 2}


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


def test_rows_that_are_missing_repeated_or_empty_are_found(run: Path, audit: Path) -> None:
    """They are reported, and what depends on them is not computed, without an error."""
    shard, scores = run / "shards" / "00000.parquet", audit / "scores.parquet"

    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[1] |= {"row": 0}
        rows[2] |= {"z_out": None, "mape": None}
        rows[3] |= {"z_in": [1.0], "mape_parts": []}
        rows[4] |= {"eps": None}

    edit_rows(shard, spoil)
    hashes.record(run, shard)
    name = "shards/00000.parquet"
    assert set(differing(verify(run))) == {(name, 0, "eps"), (name, 0, "row"), (name, 4, "eps")}
    found = set(differing(verify(run, TRUSTED)))
    assert {(name, 2, "z_out"), (name, 3, "length of z_in"), (name, 3, "number of mape_parts")} <= found
    for change in (lambda rows: rows.pop(), lambda rows: rows[3].update(score=None), lambda rows: rows.reverse()):
        shutil.copy(scores, audit / "kept")
        edit_rows(scores, change)
        hashes.record(audit, scores)
        spoilt = verify(audit, TRUSTED)
        assert {difference.file for difference in spoilt.differences} == {"scores.parquet"}
        assert spoilt.unchecked == ["no image was scored again: scores.parquet does not fit results.json"]
        shutil.move(audit / "kept", scores)


def test_missing_and_additional_files_are_found(run: Path, audit: Path) -> None:
    (run / "shards" / "00001.parquet").rename(run / "shards" / "00099.parquet")
    found = verify(run)
    assert set(differing(found)) == {
        ("shards/00001.parquet", None, "SHA-256"),
        ("shards/00099.parquet", None, "file"),
    }
    assert any("unfinished" in reason for reason in found.unchecked)
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


def test_old_directories_open_and_say_what_cannot_be_checked(run: Path) -> None:
    shutil.rmtree(run / "hashes")
    edit_json(run / "run.json", lambda header: header.update(format=3))
    found = verify(run, TRUSTED)
    assert found.differences == []
    assert found.checked["files by their hash"] == 0
    assert found.unchecked[0].startswith(
        "4 files have no recorded hash, the first is run.json; versions before format 4"
    )
    assert found.unchecked[1] == "run.json has format 3; schemas are published since format 4"
    # Without a hash, a damaged shard is still found, because it cannot be read.
    shard = run / "shards" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert ("shards/00000.parquet", None, "Parquet") in differing(verify(run))


def test_a_document_that_violates_its_schema_is_found(run: Path, audit: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=["wide"], speed=3))
    hashes.record(run, run / "run.json")
    found = verify(run, TRUSTED)
    assert differing(found) == [
        ("run.json", None, "schema run, $.settings"),
        ("run.json", None, "schema run, $.settings.eps[0]"),
    ]
    assert found.unchecked == ["no image was scored again: there is no valid run.json of format 4"]
    (audit / "results.json").write_text('{"format": NaN}')
    assert ("results.json", None, "JSON") in differing(verify(audit))


@pytest.mark.parametrize("layout", [RUN, AUDIT, TRAINING], ids=["run", "audit", "training"])
def test_schemas_have_the_settings_and_the_format_of_the_code(layout: Any) -> None:
    settings = {"run": AttackSettings, "audit": AuditSettings, "train": TrainSettings, "results": AuditSettings}
    for name in layout.documents.values():
        found = schema(name)
        jsonschema.Draft202012Validator.check_schema(found)
        assert found["properties"]["format"]["const"] == layout.format
        assert found["$id"] == f"urn:oodattack:{name}:{layout.format}"
        declared = fields(settings[name])
        own = {
            field.name: field.setting.text
            for field in declared
            if name == "results" or field.setting.affects == "results"
        }
        described = {key: value["description"] for key, value in found["properties"]["settings"]["properties"].items()}
        assert described == own


def test_level_1_needs_no_torch(finished_run: Path, finished_audit: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from oodattack.pipelines.verify import verify;"
        "print([len(verify(Path(path)).differences) for path in sys.argv[1:]], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(finished_run), str(finished_audit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[0, 0] False"


def test_code_that_a_directory_names_does_not_run_without_trust(run: Path, audit: Path) -> None:
    with pytest.raises(InputError, match=r"names code that would run here: python:tests\.factories:tiny; pass --trust"):
        verify(run, Rescoring())
    with pytest.raises(InputError, match=r"tests\.factories:Norm; pass --trust"):
        verify(audit, Rescoring("python:tests.factories:small"))
    for encoder in ("file:w.pth,factory=os:abort", "embedded,pipeline=python:os:abort"):
        edit_json(run / "run.json", partial(_name_encoder, encoder))
        with pytest.raises(InputError, match="names code that would run"):
            verify(run, Rescoring())


def _name_encoder(encoder: str, header: Any) -> None:
    header["settings"]["encoder"] = encoder


def test_a_training_is_verified(digits: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "net"
    train(TrainSettings(train=str(digits[0]), network="resnet8", size=16, epochs=1, device="cpu", out=out))
    assert differing(verify(out)) == []
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    edit_json(out / "train.json", lambda header: header["settings"].update(rate=0.3))
    assert {(file, what) for file, _, what in differing(verify(out))} == {
        ("model.safetensors", "SHA-256"),
        ("train.json", "SHA-256"),
    }


def test_the_command_has_its_own_exit_code_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = oodattack(capsys, "verify", run)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"run in {run}: no differences")
    assert oodattack(capsys, "verify", run, "--quiet") == (0, "", "")
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=[1.0, 3.0]))
    done = oodattack(capsys, "verify", run, "--rescore", "--trust", "--device", "cpu", "--json")
    assert done.code == 4
    found = json.loads(done.out)
    assert (found["kind"], found["directory"]) == ("run", str(run))
    assert {"file": "shards/00000.parquet", "row": 1, "what": "eps", "stored": 4.0, "measured": 3.0} in found[
        "differences"
    ]
    done = oodattack(capsys, "verify", run)
    assert done.code == 4
    assert "differs    shards/00000.parquet, row 1: eps: stored 4, measured 3" in done.out
    assert oodattack(capsys, "verify", run, "--quiet").code == 4
    for arguments, message in (
        ((run, "--trust"), "expected --rescore with --encoder"),
        ((run / "shards",), "expected the directory of a run, an audit or a training"),
        ((run, "--rescore"), "names code that would run here"),
    ):
        done = oodattack(capsys, "verify", *arguments)
        assert done.code == 2
        assert message in done.err


def test_hostile_names_are_printed_harmlessly(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J<b>"
    (run / "shards" / f"{hostile}.parquet").write_bytes(b"nothing")
    done = oodattack(capsys, "verify", run)
    assert done.code == 4
    assert "\x1b" not in done.out
    assert "shards/?[2J<b>.parquet" in done.out
