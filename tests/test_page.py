"""Pages without a browser: their two forms on disk, their command, and what must not get into them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodattack.core.errors import InputError
from oodattack.pipelines.attack import run_attack
from oodattack.report.numbers import share, significant
from oodattack.report.page import write_page
from oodattack.report.page.command import command
from oodattack.report.page.destination import SingleFile, thumbnail
from oodattack.report.page.environment import script, script_json
from oodattack.report.page.run_charts import bins
from oodattack.settings import AttackSettings
from oodattack.settings.saved import identity
from tests.cli import oodattack
from tests.pages import parse


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "run"
    run_attack(
        AttackSettings(
            encoder="python:tests.factories:tiny",
            images="torchvision:FakeData",
            limit=3,
            start=("noise", "spiral"),
            steps=3,
            device="cpu",
            out=out,
        )
    )
    return out


def noise(seed: int, side: int = 224) -> bytes:
    file = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def test_a_folder_has_each_image_once_as_it_is(run: Path, tmp_path: Path) -> None:
    write_page(run, out=tmp_path / "page")
    rows = pq.read_table(run / "shards").to_pylist()
    stored = {row[name]["bytes"] for row in rows for name in ("x_in", "start", "image")}
    assert len(stored) < 3 * len(rows)  # shared by several rows
    assert {path.read_bytes() for path in (tmp_path / "page" / "images").iterdir()} == stored
    assert len(list((tmp_path / "page" / "images").iterdir())) == len(stored)
    assert {path.name for path in (tmp_path / "page" / "rows").iterdir()} == {f"{row['row']}.js" for row in rows}


def test_a_page_that_is_written_again_keeps_nothing_of_the_old_one(run: Path, tmp_path: Path) -> None:
    page = write_page(run, out=tmp_path / "page").parent
    before = {path.relative_to(page): path.read_bytes() for path in page.rglob("*") if path.is_file()}
    (page / "images" / "0123456789abcdef.png").write_bytes(b"old")
    (page / "rows" / "99.js").write_text("old")
    (page / "notes.txt").write_text("the user's own")
    write_page(run, out=tmp_path / "page")
    after = {path.relative_to(page): path.read_bytes() for path in page.rglob("*") if path.is_file()}
    assert after == before | {Path("notes.txt"): b"the user's own"}


def test_a_single_file_has_thumbnails_once_the_pngs_are_too_large() -> None:
    few, many = SingleFile(Path("few.html")), SingleFile(Path("many.html"))
    for page, images in ((few, 2), (many, 40)):
        for seed in range(images):
            page.image(noise(seed))
    assert (few.full, many.full) == (True, False)
    assert "data:image/png" in few.embedded()
    assert "data:image/png" not in many.embedded()
    assert many.embedded().count("data:image/webp") == 40


def test_a_thousand_rows_of_noise_fit_into_ten_megabytes() -> None:
    """Noise is what compresses worst. The rest of a row, its card and panel, is below 1.5 kB (benchmarks/page.py)."""
    sizes = [len(thumbnail(noise(seed))) for seed in range(5)]
    assert 1000 * 3 * max(sizes) * 4 / 3 < 8.5e6
    assert min(Image.open(BytesIO(thumbnail(noise(0)))).size) == 96


def test_runs_of_earlier_versions_have_a_page(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "run"))
    header = json.loads((old / "run.json").read_text())
    for key in ("latent_dim", "input_size", "pipeline"):
        del header["inputs"][key]
    (old / "run.json").write_text(json.dumps(header))
    for shard in (old / "shards").iterdir():
        pq.write_table(pq.read_table(shard).drop_columns(["pipeline"]), shard)
    assert "images reach" in write_page(old).read_text()


def test_scripts_stay_small_and_data_cannot_end_them() -> None:
    assert len(script()) < 13_000
    text = script_json({"</script><!--": ["\u2028", "&amp;"]})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"</script><!--": ["\u2028", "&amp;"]}
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_the_command_on_the_page_gives_the_same_settings(tmp_path: Path) -> None:
    settings = AttackSettings(
        encoder="python:tests.factories:tiny",
        images="my images/*.png",
        start=("noise", "it's.png"),
        eps=(8 / 255, 0.1234567, float("inf")),
        norm="linf",
        steps=7,
        tolerance=1e-4,
        start_order="sample",
        out=tmp_path,
    )
    words = shlex.split(command("attack", AttackSettings, identity(settings), str(tmp_path)))
    given: dict[str, list[str]] = {}
    for option, value in zip(words[2::2], words[3::2], strict=True):
        given.setdefault(option.removeprefix("--"), []).append(value)
    assert words[:2] == ["oodattack", "attack"]
    assert AttackSettings.of({name: v if name == "start" else v[0] for name, v in given.items()}) == settings


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.00012345, 0.5, 1.0, 99.96, 1234.5, 5e12, 1e-300])
def test_numbers_keep_three_digits(value: float) -> None:
    assert parse(significant(value)) == pytest.approx(value, rel=5e-3)
    assert parse(share(value)) == pytest.approx(value, rel=5e-3)


@pytest.mark.parametrize("values", [[0.0], [], [1e-7, 2.0], [0.3], [0.0, 0.002], [0.001, 0.0099], [5.0, 5.0]])
def test_bins_cover_what_they_count(values: list[float]) -> None:
    edges, log = bins(values)
    assert edges == sorted(set(edges))
    assert 2 <= len(edges) <= 60
    positive = [value for value in values if value > 0]
    if positive:
        assert edges[-1] > max(positive)
        assert edges[0] <= min(positive)
    assert not log or edges[0] > 0


def test_the_page_is_named_and_opened_by_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodattack(capsys, "page", run).out == f"{run / 'page' / 'index.html'}\n"
    single = tmp_path / "send me.html"
    assert oodattack(capsys, "page", run, "--single-file", "--out", single).out == f"{single}\n"
    assert re.search(r"<h1>.* of .*images reach", single.read_text())
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > "$0.opened"\n')
    browser.chmod(0o755)
    opened = subprocess.run(
        [sys.executable, "-m", "oodattack", "open", run],
        env={**os.environ, "BROWSER": f"{browser} %s"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert opened.stdout.strip() == (run / "page" / "index.html").resolve().as_uri()
    assert Path(f"{browser}.opened").read_text() == opened.stdout


def test_directories_without_a_page_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(InputError, match="a training without --rounds has no page"):
        write_page(tmp_path)
    with pytest.raises(InputError, match="expected the directory of a run, an audit or a training"):
        write_page(tmp_path / "nothing")
    # `open` does not send to `page` what `page` refuses.
    for name in ("", "nothing"):
        refused, outcome = (oodattack(capsys, verb, tmp_path / name) for verb in ("page", "open"))
        assert outcome == refused
        assert outcome.code == 2
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "run.json").write_text("{}")
    outcome = oodattack(capsys, "open", tmp_path / "my run")
    assert outcome.code == 2
    assert outcome.err.endswith(f"`oodattack page '{tmp_path / 'my run'}'` writes one\n")
