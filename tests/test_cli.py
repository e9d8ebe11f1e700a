"""The command line from end to end."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from oodattack.images import encode_png
from oodattack.pipelines.attack import run_attack
from oodattack.runs import open_run, summarize
from oodattack.settings.attack import AttackSettings
from tests.cli import oodattack

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        image = torch.randint(256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        (folder / f"{number}.png").write_bytes(encode_png(image))
    return folder


def command(photos: Path, out: Path, *more: object) -> list[object]:
    return [
        *("attack", "--encoder", "python:tests.factories:tiny", "--images", photos, "--start", "noise"),
        *("--steps", 10, "--device", "cpu", "--out", out, *more),
    ]


def test_attack_writes_run_figures_and_table(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    (photos / "note.jpg").write_text("no image")
    done = oodattack(capsys, *command(photos, run, "--eps", "0.5,3", "--png", tmp_path / "png"))
    assert done.code == 0, done.err
    assert "noise" in done.out
    assert "1 images could not be decoded" in done.out
    assert "note.jpg" in done.out
    assert "z = input of fc, 128 numbers" in done.err
    assert "127.5 in 0–255" in done.err
    assert open_run(run).read(["row"]).num_rows == 6
    for figure in ("grid", "histogram", "convergence", "eps"):
        with Image.open(run / "figures" / f"{figure}.png") as image:
            assert min(image.size) > 300
    assert len(list((tmp_path / "png").glob("*.png"))) == 6


@pytest.mark.usefixtures("without_figures", "few_resamples")
def test_commands_on_the_last_lines_can_be_copied_into_a_shell(
    photos: Path, digits: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    run, net, report = (tmp_path / f"r<b>#% {name}" for name in ("run", "net", "audit"))
    done = oodattack(capsys, *command(photos, run))
    assert shlex.split(done.out.rpartition("(")[2].partition(")")[0]) == ["oodattack", "open", str(run)]
    train, test = digits
    size = ("--network", "resnet8", "--size", 16, "--epochs", 1, "--device", "cpu")
    done = oodattack(capsys, "train", "--train", train, *size, "--out", net)
    assert shlex.split(done.out.rpartition("--encoder ")[2]) == [f"trained:{net}"]
    images = ("--train", train, "--test", test, "--start", "noise", "--limit", 2, "--ood-limit", 2, "--fit-limit", 40)
    attacks = ("--encoder", f"trained:{net}", "--detectors", "MaxLogit", "--steps", 1, "--device", "cpu")
    done = oodattack(capsys, "audit", *attacks, *images, "--out", report)
    assert shlex.split(done.out.rpartition("(")[2].partition(")")[0]) == ["oodattack", "open", str(report)]


@pytest.mark.usefixtures("without_figures")
def test_standard_output_is_pure_json(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    done = oodattack(capsys, *command(photos, tmp_path / "run", "--json", "--quiet"))
    (group,) = json.loads(done.out)["groups"]
    assert (group["start"], group["eps"], group["count"]) == ("noise", 5.0, 3)
    (summary,) = summarize(open_run(tmp_path / "run"))
    assert (group["median"], group["before"]) == (summary.median, summary.before)
    assert done.err == ""


@pytest.mark.usefixtures("without_figures")
def test_quiet_prints_nothing(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    assert oodattack(capsys, *command(photos, tmp_path / "run", "--quiet")) == (0, "", "")


def test_show_draws_the_chosen_samples(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    start_of = {"encoder": "python:tests.factories:tiny", "images": str(photos), "start": ("noise",), "steps": 1}
    run_attack(AttackSettings(**start_of, out=run))  # type: ignore[arg-type]
    one = oodattack(capsys, "show", run, "--sample", 2, "--out", tmp_path / "one")
    two = oodattack(capsys, "show", run, "--sample", 2, "--sample", 0, "--out", tmp_path / "two")
    assert (one.code, two.code) == (0, 0)
    with Image.open(tmp_path / "one" / "grid.png") as a, Image.open(tmp_path / "two" / "grid.png") as b:
        assert a.size[0] == b.size[0]
        assert a.size[1] < b.size[1]


@pytest.mark.usefixtures("without_figures")
def test_options_override_the_config_file(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "attack.toml"
    config.write_text(
        f'encoder = "python:tests.factories:tiny"\nimages = "{photos}"\nstart = ["noise", "solid:gray"]\n'
        f'eps = [1, "8/255"]\nsteps = 4\nseed = 7\nout = "{tmp_path / "run"}"\n'
    )
    assert oodattack(capsys, "attack", "--config", config, "--steps", 3, "--quiet").code == 0
    settings = open_run(tmp_path / "run").header["settings"]
    assert (settings["steps"], settings["seed"], settings["eps"]) == (3, 7, [1.0, 8 / 255])
    assert settings["start"] == ["noise", "solid:gray"]


@pytest.mark.usefixtures("without_figures")
def test_show_accepts_an_unfinished_run(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    oodattack(capsys, *command(photos, run, "--quiet", "--batch-size", 1))
    open_run(run).shard(1).unlink()
    shown = oodattack(capsys, "show", run, "--json")
    assert json.loads(shown.out)["groups"][0]["count"] == 2


@pytest.mark.usefixtures("without_figures")
def test_the_same_command_resumes(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    oodattack(capsys, *command(photos, run, "--quiet", "--batch-size", 1))
    open_run(run).shard(1).unlink()
    again = oodattack(capsys, *command(photos, run))
    assert "2 of 3 shards already exist" in again.err
    assert open_run(run).done() == [0, 1, 2]


def test_ctrl_c_explains_how_to_resume(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        *command(photos, run, "--batch-size", 1),
        "--eps",
        ",".join(str(0.1 * n) for n in range(1, 400)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "oodattack", *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(run.glob("shards/*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"finished work is saved in {run}" in err
    assert "Repeat the command to resume" in err
    assert "Traceback" not in err
    assert 0 < len(open_run(run).done()) < open_run(run).shard_count


def test_help_needs_no_torch() -> None:
    """Importing torch takes longer than a user should wait for help."""
    code = (
        "import sys\nsys.argv = ['oodattack', 'attack', '--help']\nfrom oodattack.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'pyarrow', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("oodattack a", ["attack", "audit"]),
        ("oodattack audit --req", ["--require"]),
        ("oodattack attack --norm l", ["l1", "l2", "linf"]),
        ("oodattack audit --attacks latent,", ["latent,informed", "latent,direct", "latent,aimed"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(
    words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("_OODATTACK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert oodattack(capsys).out.split() == expected


def test_version(capsys: Capture) -> None:
    from oodattack import __version__

    assert oodattack(capsys, "--version").out == f"oodattack {__version__}\n"


@pytest.mark.slow
def test_demo_on_the_packaged_photographs(tmp_path: Path, capsys: Capture) -> None:
    """With the real encoder and photographs, but few steps."""
    out = tmp_path / "demo"
    done = oodattack(capsys, "demo", "--out", out, "--steps", 2)
    assert done.code == 0, done.err
    run = open_run(out / "run")
    rows = run.read(["image", "start", "class_in"]).to_pylist()
    assert all(row["image"]["bytes"] != row["start"]["bytes"] for row in rows)
    assert {"Egyptian cat", "espresso"} <= {row["class_in"] for row in rows}
    assert len(list((out / "x_out").glob("*.png"))) == len(rows)
    for path in ("grid.png", "histogram.png", "convergence.png", str(out / "x_out")):
        assert path in done.out
