"""`verify --rescore` of a run: forged images, figures, settings and weights, whose hashes fit."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from oodattack.core.errors import InputError
from oodattack.encoders import load_encoder
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.verify import Rescoring, verify
from oodattack.storage import hashes
from tests.factories import tiny
from tests.test_runs import settings, write_photos
from tests.verifying import TRUSTED, differing, edit_json, edit_rows


def test_what_was_written_has_no_differences(finished_run: Path) -> None:
    found = verify(finished_run, TRUSTED)
    assert (found.differences, found.unchecked) == ([], [])
    rows = pq.read_table(finished_run / "shards").num_rows
    assert found.checked["PNGs re-scored"] == found.checked["rows by the settings"] == rows
    assert found.checked["files by their hash"] == 1 + len(list(finished_run.glob("shards/*.parquet")))


def test_a_changed_setting_with_its_hash_contradicts_the_rows(run: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=[1.0, 5.0], norm="linf", seed=9))
    edit_json(run / "run.json", lambda header: header["inputs"].update(pipeline="jpeg=90"))
    hashes.record(run, run / "run.json")
    rows = pq.read_table(run / "shards").num_rows
    found = differing(verify(run))
    assert len([what for _, _, what in found if what == "eps"]) == rows / 2
    assert len([what for _, _, what in found if what == "norm"]) == rows
    assert len([what for _, _, what in found if what == "pipeline"]) == rows
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


def test_an_image_outside_the_ball_is_found(run: Path) -> None:
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


def test_every_measured_figure_is_compared(run: Path) -> None:
    shard = run / "shards" / "00000.parquet"
    numbers = ("distance", "mape", "mape_before", "probability_in", "probability_start", "probability_out")
    classes, latents = ("class_in", "class_start", "class_out"), ("z_in", "z_start", "z_out")

    def change(rows: list[dict[str, Any]]) -> None:
        row = rows[1]
        row |= {name: 0.9 * row[name] for name in numbers} | dict.fromkeys(classes, "another")
        row["mape_parts"] = [2 * part + 1 for part in row["mape_parts"]]
        for name in latents:
            row[name][7] += 1

    edit_rows(shard, change)
    hashes.record(run, shard)
    assert {(row, what) for _, row, what in differing(verify(run, TRUSTED))} == {
        (1, what) for what in (*numbers, *classes, "mape_parts[0]", *(f"{name}[7]" for name in latents))
    }


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


def test_rows_that_are_missing_repeated_or_empty_are_found(run: Path) -> None:
    """They are reported, and what depends on them is not computed, without an error."""
    shard = run / "shards" / "00000.parquet"

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


def test_code_that_a_directory_names_does_not_run_without_trust(run: Path) -> None:
    with pytest.raises(InputError, match=r"names code that would run here: python:tests\.factories:tiny; pass --trust"):
        verify(run, Rescoring())
    for encoder in ("file:w.pth,factory=os:abort", "embedded,pipeline=python:os:abort"):
        edit_json(run / "run.json", partial(_name_encoder, encoder))
        with pytest.raises(InputError, match="names code that would run"):
            verify(run, Rescoring())


def test_an_encoder_that_is_elsewhere_comes_with_a_remedy(run: Path) -> None:
    edit_json(run / "run.json", partial(_name_encoder, "trained:nets/gone"))
    with pytest.raises(InputError, match=r"nets/gone.*where the command ran: run this there, or .* with --encoder"):
        verify(run, Rescoring())


def _name_encoder(encoder: str, header: Any) -> None:
    header["settings"]["encoder"] = encoder
