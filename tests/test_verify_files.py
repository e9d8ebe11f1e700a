"""`verify` without scoring: damaged, edited, missing and additional files of a run, and schemas."""

import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from oodattack.auditing.layout import LAYOUT as AUDIT
from oodattack.pipelines.verify import verify
from oodattack.runs.store import LAYOUT as RUN
from oodattack.settings import AttackSettings, AuditSettings, TrainSettings
from oodattack.settings.field import fields
from oodattack.storage import hashes
from oodattack.storage.schema import schema
from oodattack.training.layout import LAYOUT as TRAINING
from tests.verifying import TRUSTED, differing, edit_json, edit_rows, flip, verified_without_torch


def test_one_flipped_bit_anywhere_in_a_shard_is_found(run: Path) -> None:
    """Also in the bytes of a PNG, and where a reader of Parquet would not notice it."""
    shard = run / "shards" / "00001.parquet"
    columns = pq.read_metadata(shard).row_group(0)
    [pngs] = [
        column
        for column in (columns.column(place) for place in range(columns.num_columns))
        if column.path_in_schema == "image.bytes"
    ]
    first = pngs.data_page_offset if pngs.dictionary_page_offset is None else pngs.dictionary_page_offset
    for place in (0, first + pngs.total_compressed_size // 2, -100, -1):
        flip(shard, place)
        assert ("shards/00001.parquet", None, "SHA-256") in differing(verify(run))
        flip(shard, place)
    assert differing(verify(run)) == []


def test_missing_and_additional_files_are_found(run: Path) -> None:
    (run / "shards" / "00001.parquet").rename(run / "shards" / "00099.parquet")
    found = verify(run)
    assert set(differing(found)) == {
        ("shards/00001.parquet", None, "SHA-256"),
        ("shards/00099.parquet", None, "file"),
    }
    assert any("unfinished" in reason for reason in found.unchecked)


def test_old_directories_open_and_say_what_cannot_be_checked(run: Path) -> None:
    shutil.rmtree(run / "hashes")
    edit_json(run / "run.json", lambda header: header.update(format=3))
    found = verify(run, TRUSTED)
    assert found.differences == []
    assert found.checked["files by their hash"] == 0
    assert found.checked["PNGs re-scored"] == 12
    assert found.unchecked == [
        "run.json has format 3; schemas are published since format 4",
        "files without a recorded hash: 4, the first is run.json; versions before format 4 recorded none",
    ]
    # Without a hash, a damaged shard is still found, because it cannot be read.
    shard = run / "shards" / "00000.parquet"
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:4] + bytes(40) + whole[44:]):
        shard.write_bytes(damaged)
        found = verify(run, TRUSTED)
        assert differing(found) == [("shards/00000.parquet", None, "Parquet")]
        assert found.unchecked[-1].startswith("the images of shards/00000.parquet were not scored again: ")
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=["wide"]))
    assert "no image was scored again: there is no valid run.json of format 4" in verify(run, TRUSTED).unchecked
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=[1.0, 4.0]))
    # Older formats have other columns.
    shard.write_bytes(whole)
    pq.write_table(pq.read_table(shard).drop(["seed"]), shard)
    found = verify(run, TRUSTED)
    assert found.differences == []
    assert found.unchecked[-1] == f"the images of shards/{shard.name} were not scored again, because it lacks columns"


def test_a_document_that_violates_its_schema_is_found(run: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=["wide"], speed=3))
    hashes.record(run, run / "run.json")
    found = verify(run, TRUSTED)
    assert differing(found) == [
        ("run.json", None, "schema run, $.settings"),
        ("run.json", None, "schema run, $.settings.eps[0]"),
    ]
    assert found.unchecked == ["no image was scored again: there is no valid run.json of format 4"]


def test_other_columns_and_rows_of_other_shards_are_found(run: Path) -> None:
    shard = run / "shards" / "00001.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.drop(["seed"]).append_column("score", table["mape"]), shard)
    hashes.record(run, shard)
    assert differing(verify(run)) == [
        ("shards/00001.parquet", None, "type of column score"),
        ("shards/00001.parquet", None, "type of column seed"),
    ]
    pq.write_table(table, shard)
    edit_rows(shard, lambda rows: rows[-1].update(row=rows[-1]["row"] + 10))
    hashes.record(run, shard)
    assert differing(verify(run)) == [("shards/00001.parquet", table["row"].to_pylist()[-1] + 10, "row")]


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"format": NaN}'])
def test_a_document_that_is_no_json_object_is_found(text: str, run: Path) -> None:
    (run / "run.json").write_text(text)
    hashes.record(run, run / "run.json")
    assert differing(verify(run)) == [("run.json", None, "JSON")]


def test_messages_about_schemas_do_not_repeat_the_document(run: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=["wide" * 1000]))
    [difference] = verify(run).differences[1:]
    assert difference.what == "schema run, $.settings.eps[0]"
    assert len(difference.stored) < 300


def test_a_hash_that_was_lost_or_damaged_is_found(run: Path) -> None:
    recorded = run / "hashes" / "shards" / "00001.parquet.sha256"
    recorded.write_text("nonsense")
    found = verify(run)
    assert differing(found) == [("shards/00001.parquet", None, "SHA-256")]
    assert found.differences[0].stored == "missing"
    recorded.unlink()
    assert differing(verify(run)) == [("shards/00001.parquet", None, "SHA-256")]


def test_deleted_hashes_hide_nothing_in_a_finished_run(run: Path) -> None:
    flip(run / "shards" / "00001.parquet", 0)
    shutil.rmtree(run / "hashes")
    found = verify(run)
    files = ["run.json", *(f"shards/{number:05d}.parquet" for number in range(3))]
    lost = [difference for difference in found.differences if difference.what == "SHA-256"]
    assert [(difference.file, difference.stored) for difference in lost] == [(file, "none") for file in files]
    assert not any("recorded hash" in reason for reason in found.unchecked)


def test_files_of_an_unfinished_run_may_lack_a_hash(run: Path) -> None:
    """A process that dies between a file and its hash leaves such a file; the next one records what is missing."""
    (run / "shards" / "00002.parquet").unlink()
    shutil.rmtree(run / "hashes")
    found = verify(run)
    assert found.differences == []
    assert found.unchecked == [
        "files without a recorded hash: 3, the first is run.json; an interrupted command records them when it is"
        " repeated",
        "the run is unfinished: 2 of 3 shards exist",
    ]


@pytest.mark.parametrize("layout", [RUN, AUDIT, TRAINING], ids=["run", "audit", "training"])
def test_schemas_have_the_settings_and_the_format_of_the_code(layout: Any) -> None:
    settings = {"run": AttackSettings, "audit": AuditSettings, "train": TrainSettings, "results": AuditSettings}
    for name in filter(None, layout.documents.values()):
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


def test_level_1_needs_no_torch(finished_run: Path) -> None:
    assert verified_without_torch(finished_run)
