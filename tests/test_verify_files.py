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
from tests.verifying import TRUSTED, differing, edit_json, flip, make_run, verified_without_torch


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may break."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


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
    assert found.unchecked[0].startswith(
        "4 files have no recorded hash, the first is run.json; versions before format 4"
    )
    assert found.unchecked[1] == "run.json has format 3; schemas are published since format 4"
    # Without a hash, a damaged shard is still found, because it cannot be read.
    shard = run / "shards" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert ("shards/00000.parquet", None, "Parquet") in differing(verify(run))


def test_a_document_that_violates_its_schema_is_found(run: Path) -> None:
    edit_json(run / "run.json", lambda header: header["settings"].update(eps=["wide"], speed=3))
    hashes.record(run, run / "run.json")
    found = verify(run, TRUSTED)
    assert differing(found) == [
        ("run.json", None, "schema run, $.settings"),
        ("run.json", None, "schema run, $.settings.eps[0]"),
    ]
    assert found.unchecked == ["no image was scored again: there is no valid run.json of format 4"]


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
