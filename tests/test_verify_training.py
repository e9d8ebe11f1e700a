"""`verify` of a training, and of its rounds."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from oodattack.pipelines import rounds
from oodattack.pipelines.train import train
from oodattack.pipelines.verify import verify
from oodattack.settings import TrainSettings
from oodattack.storage import hashes
from tests.digits import write_photographs
from tests.verifying import TRUSTED, differing, edit_json, flip

ROUND_FILES = ("images.parquet", "model.safetensors", "train.json")

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_a_training_is_verified(digits: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "net"
    train(TrainSettings(train=str(digits[0]), network="resnet8", size=16, epochs=1, device="cpu", out=out))
    assert differing(verify(out)) == []
    flip(out / "model.safetensors", -1)
    edit_json(out / "train.json", lambda header: header["settings"].update(rate=0.3))
    assert {(file, what) for file, _, what in differing(verify(out))} == {
        ("model.safetensors", "SHA-256"),
        ("train.json", "SHA-256"),
    }
    assert verify(out, TRUSTED).unchecked == ["no image was scored again: a training without rounds stores none"]
    shutil.rmtree(out / "hashes")
    files = ["train.json", "results.json", "model.safetensors"]
    assert differing(verify(out)) == [(file, None, "SHA-256") for file in files]
    (out / "results.json").unlink()
    found = verify(out)
    assert found.differences == []
    assert any(reason.startswith("files without a recorded hash: 2") for reason in found.unchecked)


def test_the_rounds_of_a_training_are_verified(
    digits: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of every round that has a hash, and the figures in results.json against those beside the images."""
    monkeypatch.setattr(rounds, "STEPS", 1)
    out = tmp_path / "net"
    train(
        TrainSettings(
            train=str(digits[0]),
            test=str(digits[1]),
            outliers=(str(write_photographs(tmp_path / "photographs", 8)),),
            network="resnet8",
            size=16,
            epochs=1,
            rounds=1,
            round_epochs=1,
            round_images=4,
            device="cpu",
            out=out,
        )
    )
    found = verify(out)
    assert (found.differences, found.unchecked) == ([], [])
    assert found.checked["rounds in two files"] == 2
    written = {f"{folder}/{name}" for folder in ("000", "001") for name in ROUND_FILES}
    assert set(hashes.recorded(out / "rounds")) == {"rounds.json", *written}
    for name in hashes.recorded(out / "rounds"):
        flip(out / "rounds" / name, -1)
        assert (f"rounds/{name}", None, "SHA-256") in differing(verify(out))
        flip(out / "rounds" / name, -1)
    assert differing(verify(out)) == []
    [reason] = verify(out, TRUSTED).unchecked
    assert reason.startswith("no image was scored again: those in rounds are compared by the hash")
    _check_deleted_hashes(out)

    images = out / "rounds" / "001" / "images.parquet"
    columns = images.read_bytes()
    pq.write_table(pq.read_table(images).drop(["score"]), images)
    hashes.record(out / "rounds", images)
    assert ("rounds/001/images.parquet", None, "type of column score") in differing(verify(out))
    images.write_bytes(columns)
    hashes.record(out / "rounds", images)

    edit_json(out / "results.json", lambda results: results["rounds"][1]["mape"].update(new=0.5))
    hashes.record(out, out / "results.json")
    assert differing(verify(out)) == [("results.json", None, "rounds.1.mape.new")]
    images.unlink()
    assert differing(verify(out)) == [("rounds/001/images.parquet", None, "SHA-256")]


def _check_deleted_hashes(out: Path) -> None:
    """Without them, a changed byte of a round must not pass: neither if the header of the rounds is deleted as well."""
    names = set(hashes.recorded(out / "rounds"))
    copy = Path(shutil.copytree(out, out.parent / "copy"))
    shutil.rmtree(copy / "rounds" / "hashes")
    flip(copy / "rounds" / "001" / "model.safetensors", -1)
    assert set(differing(verify(copy))) == {(f"rounds/{name}", None, "SHA-256") for name in names}
    edit_json(copy / "rounds" / "rounds.json", lambda header: header.update(format=3))
    found = verify(copy)
    assert found.differences == []
    assert any("versions before format 4 recorded none" in reason for reason in found.unchecked)
    (copy / "rounds" / "rounds.json").unlink()
    assert len(differing(verify(copy))) == len(names) - 1
    (copy / "results.json").unlink()
    hashes.forget(copy, copy / "results.json")
    assert differing(verify(copy)) == []
