"""Runs on disk: complete shards, resuming, refusing other settings, and reading by other tools."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.encoders import load_encoder
from oodattack.engines import Chunk, LocalEngine, OnStep, Result, Work
from oodattack.engines.engine import ignore, never
from oodattack.images import decode, encode_png
from oodattack.pipelines.attack import run_attack
from oodattack.runs import Run, ShardRecord, open_run, start_run, summarize
from oodattack.settings.attack import AttackSettings
from oodattack.storage.files import write_whole
from oodattack.storage.hashes import recorded, sha256_of

ENCODER = "python:tests.factories:tiny"
ROOT = Path(__file__).parents[1]


def write_photos(folder: Path) -> Path:
    """Write six small images and a broken one."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    for number in range(6):
        image = torch.randint(256, (3, 40, 36), generator=generator, dtype=torch.uint8)
        (folder / f"{number}.png").write_bytes(encode_png(image))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos that a test may change."""
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def shared_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of the run `finished`, shared by all tests."""
    return write_photos(tmp_path_factory.mktemp("runs") / "photos")


@pytest.fixture(scope="module")
def finished(shared_photos: Path) -> Run:
    """A finished run that tests only read."""
    return run_attack(settings(shared_photos, shared_photos.parent / "run"))


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Path:
    """A copy of the run `finished` that a test may change."""
    return Path(shutil.copytree(finished.path, tmp_path / "copied"))


def settings(photos: Path, out: Path, **changes: Any) -> AttackSettings:
    values: dict[str, Any] = {
        "encoder": ENCODER,
        "images": str(photos),
        "start": ("noise", "checkerboard:2x2"),
        "eps": (1.0, 4.0),
        "steps": 6,
        "batch_size": 5,
        "device": "cpu",
        "out": out,
    }
    return AttackSettings(**{**values, **changes})


def rows_of(out: Path) -> list[dict[str, Any]]:
    return list(open_run(out).read().to_pylist())


def test_every_readable_image_has_a_row_for_each_start_and_eps(finished: Run) -> None:
    rows = rows_of(finished.path)
    assert {(r["x_in_name"], r["start_name"], r["eps"]) for r in rows} == {
        (f"{n}.png", start, eps) for n in range(6) for start in ("noise", "checkerboard:2x2") for eps in (1.0, 4.0)
    }
    assert len(rows) == 24
    assert list(finished.skipped()) == ["broken.png"]
    assert "broken.png" in finished.skipped()["broken.png"]


def test_results_are_measured_on_the_decoded_png(finished: Run) -> None:
    rows = rows_of(finished.path)
    encoder = load_encoder(ENCODER, device="cpu")
    for row in rows:
        x_in, start, x_out = (dequantize(decode(row[name]["bytes"]))[None] for name in ("x_in", "start", "image"))
        with torch.no_grad():
            z_in, z_start, z_out = encoder(x_in), encoder(start), encoder(x_out)
        assert row["mape"] == pytest.approx(mape(z_out, z_in).item(), rel=1e-3, abs=1e-5)
        assert row["mape_before"] == pytest.approx(mape(z_start, z_in).item(), rel=1e-3, abs=1e-5)
        assert row["distance"] == pytest.approx((x_out.double() - start.double()).norm().item(), rel=1e-9)
        assert row["distance"] <= row["eps"]
        np.testing.assert_allclose(row["z_out"], z_out[0].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row["z_in"], z_in[0].numpy(), rtol=1e-4, atol=1e-5)
    # The 8-bit values differ from the float ones, so they were not copied from them.
    assert [row["mape"] for row in rows] != [row["mape_float"] for row in rows]


def test_a_row_does_not_depend_on_the_other_rows(photos: Path, tmp_path: Path) -> None:
    """After a single step of the published method, from a random start drawn with the row's own seed."""
    paper = {"method": "paper", "steps": 1}
    everything = {
        (r["x_in_name"], r["start_name"], r["eps"]): r
        for r in rows_of(run_attack(settings(photos, tmp_path / "a", **paper)).path)
    }
    alone = settings(photos / "3.png", tmp_path / "b", start=("noise",), eps=(4.0,), batch_size=1, **paper)
    (row,) = rows_of(run_attack(alone).path)
    other = everything["3.png", "noise", 4.0]
    assert row["seed"] == other["seed"]
    one, two, start = (decode(cell["bytes"]).int() for cell in (row["image"], other["image"], row["start"]))
    assert (one - two).abs().max() <= 1  # rounding may differ by a level
    assert (one - start).abs().max() > 1


def test_the_limit_selects_evenly_spaced_images(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").unlink()
    rows = rows_of(run_attack(settings(photos, tmp_path / "run", limit=3, start=("noise",), eps=(1.0,))).path)
    assert [row["x_in_name"] for row in rows] == ["0.png", "2.png", "4.png"]


KILLER = """
import os, signal, sys
from pathlib import Path
import oodattack.storage.files as files
from oodattack.pipelines.attack import run_attack
from tests.test_runs import settings

calls, real = 0, os.fsync
def fsync(descriptor):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
files.os.fsync = fsync
run_attack(settings(Path(sys.argv[1]), Path(sys.argv[2])))
"""


# Two syncs per file, of its contents (before the rename) and of the directory (after it); run.json is the first file. A
# file with its hash follows each.
@pytest.mark.parametrize(("sync", "shards", "partial"), [(9, 1, True), (10, 2, False)])
def test_a_killed_run_resumes_and_gives_the_rows_of_an_uninterrupted_one(
    shared_photos: Path, finished: Run, tmp_path: Path, sync: int, shards: int, partial: bool
) -> None:
    killed = tmp_path / "killed"
    process = subprocess.run(
        [sys.executable, "-c", KILLER, str(shared_photos), str(killed), str(sync)],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert len(list((killed / "shards").glob("*.parquet"))) == shards
    assert bool(list((killed / "shards").glob("*.partial"))) == partial
    kept = {path: path.stat().st_mtime_ns for path in (killed / "shards").glob("*.parquet")}

    run_attack(settings(shared_photos, killed))

    assert rows_of(killed) == rows_of(finished.path)
    assert not list((killed / "shards").glob("*.partial"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert recorded(killed).keys() == recorded(finished.path).keys()
    assert all(sha256_of(killed / name) == digest for name, digest in recorded(killed).items())


def test_ctrl_c_finishes_the_current_shard(shared_photos: Path, finished: Run, tmp_path: Path) -> None:
    pressed: list[int] = []

    def interrupt(progress: Any) -> None:
        if progress.rows_done == 5 and progress.running and not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_attack(settings(shared_photos, tmp_path / "run"), on_progress=interrupt)
    assert open_run(tmp_path / "run").done() == [0, 1]
    run_attack(settings(shared_photos, tmp_path / "run"))
    assert rows_of(tmp_path / "run") == rows_of(finished.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 13}, r"settings\.steps: the run has 6, this command has 13"),
        ({"eps": (1.0, 5.0)}, r"settings\.eps: the run has \[1\.0, 4\.0\], this command has \[1\.0, 5\.0\]"),
        ({"encoder": "python:tests.factories:tiny,layer=conv"}, r"inputs\.encoder"),
        ({"batch_size": 4}, "batch_size: the run has 5, this command has 4"),
        ({"seed": 1}, r"settings\.seed"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    shared_photos: Path, copied: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_attack(settings(shared_photos, copied, **change))


def test_changed_images_are_noticed(photos: Path, tmp_path: Path) -> None:
    run_attack(settings(photos, tmp_path / "run", steps=1))
    png = bytearray((photos / "0.png").read_bytes())
    png[-1] ^= 1
    (photos / "0.png").write_bytes(png)  # of the same size
    with pytest.raises(InputError, match=r"inputs\.images"):
        run_attack(settings(photos, tmp_path / "run", steps=1))


def test_the_batch_size_of_the_run_is_kept_when_none_is_given(shared_photos: Path, copied: Path) -> None:
    assert run_attack(settings(shared_photos, copied, batch_size=None)).header["batch_size"] == 5


def test_a_run_of_format_2_is_read_but_not_resumed(photos: Path, tmp_path: Path) -> None:
    run = run_attack(settings(photos, tmp_path / "run"))
    rows, skipped = rows_of(run.path), run.skipped()
    header = dict(run.header) | {"format": 2}
    del header["rows_per_shard"], header["environment"]["device_model"]
    (run.path / "run.json").write_text(json.dumps(header))
    for number in run.done():
        record = {"skipped": run.record(number).skipped}
        table = run.read_shard(number)
        metadata = {**table.schema.metadata, b"oodattack": json.dumps(record).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), run.shard(number))
    old = open_run(run.path)
    assert old.shard_count == len(old.done())
    assert old.read().to_pylist() == rows
    assert old.skipped() == skipped
    assert old.record(0).batch_sizes == ()
    assert sum(group.count for group in summarize(old)) == len(rows)
    with pytest.raises(InputError, match=r"expected a run of format 4 to resume, got format 2 in .*only be read"):
        run_attack(settings(photos, tmp_path / "run"))


def test_each_shard_records_how_it_was_computed(photos: Path, tmp_path: Path) -> None:
    run = run_attack(settings(photos, tmp_path / "run"))
    environment = run.header["environment"]
    assert environment["device_model"]
    for number in run.done():
        record = run.record(number)
        assert record.batch_sizes == [len(run.shard_rows(number))]
        assert record.machine.items() <= environment.items()
        assert record.machine["threads"] == torch.get_num_threads()


class Recording:
    """The local engine, with a list of the chunks that it was given."""

    def __init__(self) -> None:
        self.chunks: list[object] = []

    def map(
        self,
        work: Work[Chunk, Result],
        chunks: Iterable[Chunk],
        *,
        stop: Callable[[], bool] = never,
        on_step: OnStep[Chunk] = ignore,
    ) -> Iterator[tuple[Chunk, Result]]:
        for chunk, result in LocalEngine().map(work, chunks, stop=stop, on_step=on_step):
            self.chunks.append(chunk)
            yield chunk, result


def test_only_missing_shards_are_computed(photos: Path, tmp_path: Path) -> None:
    run = run_attack(settings(photos, tmp_path / "run", eps=(1.0,)))
    rows = rows_of(run.path)
    run.shard(1).unlink()
    assert run.done() == [0, 2]
    engine = Recording()
    run_attack(settings(photos, tmp_path / "run", eps=(1.0,)), engine=engine)
    assert [chunk for chunk in engine.chunks if isinstance(chunk, int)] == [1]  # the other chunk is for measuring
    assert rows_of(run.path) == rows


def test_a_shard_that_exists_is_kept(photos: Path, tmp_path: Path) -> None:
    run = run_attack(settings(photos, tmp_path / "run"))
    before = run.shard(0).read_bytes()
    run.write_shard(0, [], ShardRecord())  # the first of two writers wins
    assert run.shard(0).read_bytes() == before
    (run.path / "shards" / "7.parquet").write_bytes(b"not a shard of this run")
    (run.path / "shards" / "99999.parquet").write_bytes(b"nor this")
    assert run.done() == list(range(run.shard_count))


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    header = {"settings": {}, "inputs": {}, "rows": 1, "batch_size": 1, "rows_per_shard": 1, "environment": {}}
    with (
        start_run(tmp_path, header),
        pytest.raises(InputError, match="in use by another process"),
        start_run(tmp_path, header),
    ):
        pass


def test_a_shard_without_rows_is_read_by_datasets(photos: Path, tmp_path: Path) -> None:
    """Rows load with the library, show as images, and decode to the same pixels, even next to an empty shard."""
    datasets = pytest.importorskip("datasets")
    for number in range(6):
        (photos / f"{number}.png").rename(
            photos / f"z{number}.png"
        )  # the broken one comes first, in a shard of its own
    run = run_attack(settings(photos, tmp_path / "run", batch_size=4, steps=1))
    assert run.read_shard(0).num_rows == 0
    data = datasets.load_dataset(
        "parquet", data_dir=str(run.path / "shards"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == 24
    assert isinstance(data.features["image"], datasets.Image)
    row = data[0]
    assert isinstance(row["image"], Image.Image)
    assert row["image"].size == (32, 32)
    expected = decode(run.read(["image"])["image"][0].as_py()["bytes"])
    assert torch.equal(torch.from_numpy(np.array(row["image"])).permute(2, 0, 1), expected)


def test_the_card_shows_a_run_with_hostile_names(photos: Path, tmp_path: Path) -> None:
    """The Hub reads the front matter of README.md; a name must neither change it nor be more than text."""
    datasets = pytest.importorskip("datasets")
    yaml = pytest.importorskip("yaml")
    name = "a\n---\nconfigs: []\n| `b` |<script>alert(1)</script> [c](file:d) \u202eé"
    hostile = photos.rename(tmp_path / name.replace("/", "_"))
    run = run_attack(settings(hostile, tmp_path / "run", steps=1, eps=(1.0,), start=("noise",)))
    card = (run.path / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "shards/*.parquet"}]}
    ]
    assert "\u202e" not in card
    [line] = [line for line in text.splitlines() if line.startswith("| images |")]
    assert not set(line.removeprefix("| images |").removesuffix("|")) & set("`<>[]_*|\\:")
    assert "script" in line
    data = datasets.load_dataset(str(run.path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["row"] for row in data] == [row["row"] for row in rows_of(run.path)]
    assert isinstance(data[0]["image"], Image.Image)
    # A card that somebody has edited is kept.
    (run.path / "README.md").write_text("mine")
    run_attack(settings(hostile, tmp_path / "run", steps=1, eps=(1.0,), start=("noise",)))
    assert (run.path / "README.md").read_text() == "mine"


def test_pandas_reads_the_shards(finished: Run) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(finished.path / "shards")
    assert len(frame) == 24
    image = Image.open(io.BytesIO(frame["image"][0]["bytes"]))
    assert image.size == (32, 32)


def test_run_json_records_how_the_run_was_made(finished: Run) -> None:
    header = json.loads((finished.path / "run.json").read_text())
    assert header["settings"]["eps"] == [1.0, 4.0]
    assert header["settings"]["seed"] == 0
    assert header["environment"]["torch"] == torch.__version__
    assert header["inputs"]["encoder"] == load_encoder(ENCODER, device="cpu").digest()
    assert header["inputs"]["layer"] == "input of fc"


def test_plain_pngs_are_the_bytes_of_the_run(shared_photos: Path, copied: Path, tmp_path: Path) -> None:
    run = run_attack(settings(shared_photos, copied, png=tmp_path / "png"))
    rows = rows_of(run.path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "png").iterdir()}
    assert written == {row["image"]["path"]: row["image"]["bytes"] for row in rows}
    assert all(name.startswith(f"{row['row']:06d}_") for name, row in zip(sorted(written), rows, strict=True))


def test_a_damaged_shard_is_named(copied: Path) -> None:
    run = open_run(copied)
    run.shard(1).write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match=r"cannot read .*00001\.parquet.*delete it"):
        run.read()
    table = run.read_shard(0)
    offsets = pa.array([0, 2], pa.int32()).buffers()[1]
    no_text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    column = table.schema.get_field_index("start_source")
    pq.write_table(table.slice(0, 1).set_column(column, table.schema.field(column), [no_text]), run.shard(1))
    with pytest.raises(InputError, match=r"cannot read .*00001\.parquet.*UTF8.*delete it"):
        run.read()
    pq.write_table(table.replace_schema_metadata({"oodattack": "{"}), run.shard(1))
    with pytest.raises(InputError, match=r"cannot read .*00001\.parquet.*delete it"):
        run.skipped()


def test_an_undefined_mape_is_null_with_a_reason_and_excluded_from_medians(tmp_path: Path, photos: Path) -> None:
    for number in range(3):
        (photos / f"{number}.png").write_bytes(encode_png(torch.zeros(3, 32, 32, dtype=torch.uint8)))
    run = run_attack(settings(photos, tmp_path / "run", encoder="python:tests.factories:dark", eps=(1.0,)))
    rows = rows_of(run.path)
    dark = [row for row in rows if row["x_in_name"] in ("0.png", "1.png", "2.png")]
    assert len(dark) == 6
    assert all(row["mape"] is None and "all zeros" in row["mape_note"] for row in dark)
    groups = summarize(run)
    assert sum(group.undefined for group in groups) == len(dark)
    assert all(np.isfinite(group.median) for group in groups)


def test_summary_against_numpy(finished: Run) -> None:
    rows = [r for r in rows_of(finished.path) if r["start_name"] == "noise" and r["eps"] == 4.0]
    group = next(g for g in summarize(finished) if g.start == "noise" and g.eps == 4.0)
    values = [row["mape"] for row in rows]
    assert (group.lower, group.median, group.upper) == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))
    assert group.below == np.mean(np.array(values) < 0.001)
    assert group.count == 6


def test_quantiles_of_infinite_mapes_are_numbers(copied: Path) -> None:
    run = open_run(copied)
    for number in run.done():
        rows = run.read_shard(number).to_pylist()
        run.shard(number).unlink()
        infinite = [{**row, "mape": float("inf")} if row["x_in_name"] > "1.png" else row for row in rows]
        run.write_shard(number, infinite, ShardRecord())
    groups = summarize(run)
    assert any(np.isinf(group.upper) for group in groups)
    assert not any(np.isnan([group.lower, group.median, group.upper]).any() for group in groups)


def test_shards_hold_one_batch_each(finished: Run) -> None:
    planned = 7 * 4
    assert finished.shard_count == -(-planned // 5)
    assert sum(pq.read_metadata(finished.shard(n)).num_rows for n in finished.done()) == 24


def test_a_start_that_cannot_be_decoded_is_skipped_like_an_image(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").rename(photos / "0.png")
    run = run_attack(settings(photos / "5.png", tmp_path / "run", start=(str(photos), "noise"), eps=(1.0,)))
    assert [row["start_name"] for row in rows_of(run.path)] == ["noise"]
    assert [reason for reason in run.skipped().values() if "0.png" in reason]


def test_a_run_with_only_broken_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"got none that can be decoded; the first: .*a\.png"):
        run_attack(settings(tmp_path / "broken", tmp_path / "run"))


def test_partial_files_of_other_programs_are_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    other = tmp_path / "downloads" / "film.mp4.partial"
    other.write_bytes(b"half")
    with pytest.raises(InputError, match=r"film\.mp4\.partial and no run\.json"):
        run_attack(settings(photos, tmp_path / "downloads"))
    assert other.read_bytes() == b"half"


def test_two_starts_with_the_same_file_name_are_two_groups(photos: Path, tmp_path: Path) -> None:
    for folder, level in (("a", 0), ("b", 255)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(encode_png(torch.full((3, 32, 32), level, dtype=torch.uint8)))
    starts = (str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "x.png"))
    groups = summarize(run_attack(settings(photos, tmp_path / "run", start=starts, eps=(1.0,))))
    assert [group.start for group in groups] == list(starts)


def test_a_folder_of_starts_is_one_group(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").unlink()
    run = run_attack(settings(photos, tmp_path / "run", start=(str(photos),), eps=(1.0,)))
    assert [group.count for group in summarize(run)] == [6]
    assert len({row["start_name"] for row in rows_of(run.path)}) == 6


def test_pngs_of_another_run_are_replaced(photos: Path, tmp_path: Path) -> None:
    run_attack(settings(photos, tmp_path / "a", png=tmp_path / "png", steps=1, eps=(1.0,)))
    run = run_attack(settings(photos, tmp_path / "b", png=tmp_path / "png", steps=2, eps=(1.0,)))
    assert {path.read_bytes() for path in (tmp_path / "png").iterdir()} == {
        row["image"]["bytes"] for row in rows_of(run.path)
    }


def test_every_layer_has_its_own_mape(photos: Path, tmp_path: Path) -> None:
    spec = f"{ENCODER},layer=conv+input of fc"
    run = run_attack(settings(photos, tmp_path / "run", encoder=spec, start=("noise",), eps=(4.0,)))
    encoder = load_encoder(spec, device="cpu")
    row = rows_of(run.path)[0]
    z_in, z_out = (torch.tensor(row[name])[None] for name in ("z_in", "z_out"))
    cut = encoder.parts[0]
    expected = [mape(z_out[:, part], z_in[:, part]).item() for part in (slice(0, cut), slice(cut, None))]
    assert len(expected) == 2
    assert row["mape_parts"] == pytest.approx(expected, rel=1e-4)


def test_resuming_in_another_environment_warns(shared_photos: Path, copied: Path) -> None:
    header = json.loads((copied / "run.json").read_text())
    header["environment"]["torch"] = "1.0"
    (copied / "run.json").write_text(json.dumps(header))
    with pytest.warns(UserWarning, match=r"begun in another environment \(torch '1\.0', now"):
        run_attack(settings(shared_photos, copied))


def test_names_that_are_formulas_markup_or_long(photos: Path, tmp_path: Path) -> None:
    """File names appear in figures, tables and other file names, where they must not be interpreted."""
    from oodattack.report import draw_run

    names = ["a$5_and_$6.png", "[red]b[", "猫" * 70 + ".png"]
    folder = tmp_path / "names"
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes((photos / f"{number}.png").read_bytes())
    spec = str(folder / "*")
    run = run_attack(settings(photos / "5.png", tmp_path / "run", start=(spec,), png=tmp_path / "png", eps=(1.0,)))
    run = run_attack(settings(folder, tmp_path / "run2", start=("noise",), png=tmp_path / "png", eps=(1.0,)))
    assert run.read(["row"]).num_rows == 2  # the file without a suffix is not an image
    assert len(draw_run(run, tmp_path / "figures")) == 3


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(InputError, match=r"cannot write .*a: No space left on device; what was written before is kept"):
        write_whole(tmp_path / "a", half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="only POSIX can bound the size of a file")
@pytest.mark.parametrize("write", ["write_torch(path, torch.rand(10**5))", "write_bytes(path, bytes(10**6))"])
def test_a_full_disk_is_reported_and_leaves_nothing(write: str, tmp_path: Path) -> None:
    """The subprocess cannot write files of more than 100 kB."""
    program = f"""
import resource, signal, torch
from pathlib import Path
from oodattack.core.errors import WriteError
from oodattack.storage.files import write_bytes, write_torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))
path = Path({str(tmp_path / "file")!r})
for write, what in ((write_torch, torch.rand(10**5)), (write_bytes, bytes(10**6))):
    try:
        write(path, what)
    except WriteError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"cannot write {tmp_path / 'file'}: File too large") == 2
    assert list(tmp_path.iterdir()) == []
