"""Users' mistakes and the sentence that reports each: exit code 2, no traceback, nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oodattack.images import encode_png
from oodattack.pipelines.attack import run_attack
from oodattack.runs import open_run
from oodattack.settings.attack import AttackSettings
from tests.cli import oodattack

Change = dict[str, Any] | Callable[[Path], dict[str, Any]]


def write(name: str, data: bytes | str) -> Callable[[Path], Path]:
    """A file in the test's folder, created when the test runs."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return make


def torch_file(name: str, value: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value, folder / name)
        return folder / name

    return make


PNG = encode_png(torch.zeros(3, 32, 32, dtype=torch.uint8))
TINY = "python:tests.factories:tiny"
MISSING = "/no/such/place"
FORMAT_2 = '{"format": 2, "rows": 1, "batch_size": 1, "settings": {}, "inputs": {}, "environment": {}}'

# The mistake, the changed options, and part of the message. A function creates a file, whose path replaces {}.
CASES: list[tuple[str, dict[str, Any], str]] = [
    # settings
    ("no encoder", {"encoder": None}, "missing --encoder"),
    ("no start and no out", {"start": None, "out": None}, "missing --start, --out"),
    ("negative eps", {"eps": "-1"}, "expected eps >= 0, got -1"),
    (
        "eps is a word",
        {"eps": "big"},
        "expected eps to be a number, a fraction such as 8/255, or inf, got 'big'",
    ),
    ("eps divided by zero", {"eps": "8/0"}, "a fraction such as 8/255"),
    ("eps NaN", {"eps": "nan"}, "expected eps to be a number"),
    ("eps in levels", {"eps": "8", "norm": "linf"}, "got 8: pixels are in [0, 1]; give 8/255"),
    ("eps twice", {"eps": "1,1.0"}, "expected each eps once"),
    ("empty entry in a list of eps", {"eps": "1,,2"}, "expected eps to be a number"),
    ("unknown norm", {"norm": "l3"}, "expected norm to be one of l1, l2, linf, got 'l3'"),
    ("norm in capitals", {"norm": "Linf"}, "did you mean 'linf'?"),
    ("no steps", {"steps": "0"}, "expected steps >= 1, got 0"),
    ("restarts of zero", {"restarts": "0"}, "expected restarts >= 1, got 0"),
    ("negative tolerance", {"tolerance": "-0.1"}, "expected a finite tolerance >= 0"),
    ("step size of zero", {"step-size": "0"}, "expected step_size to be positive"),
    ("unknown method", {"method": "fsat"}, "did you mean 'fast'?"),
    ("unknown gradient", {"gradient": "numeric"}, "expected gradient to be one of autograd, spsa, got 'numeric'"),
    ("negative seed", {"seed": "-1"}, "expected seed >= 0, got -1"),
    ("limit of zero", {"limit": "0"}, "expected limit >= 1, got 0"),
    ("batch of zero", {"batch-size": "0"}, "expected batch_size >= 1, got 0"),
    ("unknown order", {"start-order": "random"}, "expected start_order to be one of cycle, sample"),
    ("unknown device", {"device": "gpu"}, "expected a device available"),
    ("missing device", {"device": "cuda:77"}, "expected a device available"),
    ("the same start twice", {"start": ["noise", "noise"]}, "expected each start once"),
    # configuration
    ("no such config", {"config": MISSING}, "cannot read the settings in /no/such/place"),
    ("grid steps with SPSA", {"gradient": "spsa", "grid-steps": 5}, "expected no grid_steps with gradient spsa"),
    ("config is not TOML", {"config": write("a.toml", "eps = = 5")}, "expected TOML lines such as eps = 5"),
    ("unknown key", {"config": write("a.toml", "epz = 5")}, "unknown setting 'epz'; did you mean 'eps'?"),
    (
        "unknown key with a hyphen",
        {"config": write("a.toml", "batch-sise = 5")},
        "unknown setting 'batch-sise'; did you",
    ),
    (
        "a key in two spellings",
        {"config": write("a.toml", "step-size = 1\nstep_size = 1")},
        "expected each setting once",
    ),
    ("a tolerance that is a word", {"tolerance": "low"}, "expected tolerance to be a number, a fraction such as"),
    (
        "string for a number",
        {"config": write("a.toml", "seed = 'one'")},
        "expected seed to be an integer, got 'one'",
    ),
    (
        "number for a switch",
        {"config": write("a.toml", "strict = 1")},
        "expected strict to be true or false, got 1",
    ),
    (
        "switch for a number",
        {"config": write("a.toml", "seed = true")},
        "expected seed to be an integer, got True",
    ),
    # encoders
    ("unknown kind of encoder", {"encoder": "keras:resnet"}, "keras"),
    ("misspelt torchvision model", {"encoder": "torchvision:resnet81,weights=none"}, "resnet18"),
    ("unknown option", {"encoder": f"{TINY},wieghts=none"}, "weights"),
    ("unknown layer", {"encoder": f"{TINY},layer=cnov"}, "conv"),
    ("no such module", {"encoder": "python:nomodule:tiny"}, "nomodule"),
    ("no such factory", {"encoder": "python:tests.factories:tni"}, "tiny"),
    ("a factory that raises", {"encoder": "python:tests.cli:Outcome"}, "Outcome"),
    ("no such weights", {"encoder": f"{TINY},weights={MISSING}.pth"}, f"{MISSING}.pth"),
    (
        "weights of another model",
        {"encoder": (torch_file("w.pth", {"a": torch.ones(2)}), f"{TINY},weights={{}}")},
        "conv",
    ),
    ("weights that are text", {"encoder": (write("w.pth", "hello"), f"{TINY},weights={{}}")}, "w.pth"),
    (
        "a pickled object",
        {"encoder": (torch_file("w.pth", {"a": Path("x")}), f"{TINY},weights={{}}")},
        "--trust",
    ),
    ("a program without trust", {"encoder": (write("m.pt2", b"PK\3\4"), "file:{}")}, "--trust"),
    (
        "state dict without a network",
        {"encoder": (torch_file("w.pth", {"a": torch.ones(2)}), "file:{}")},
        "factory=",
    ),
    ("a size of zero", {"encoder": f"{TINY},size=0"}, "size"),
    # pipelines
    ("unknown stage", {"pipeline": "rotate=90"}, "expected a pipeline of resize=SIZE[:bilinear|bicubic], crop=SIZE"),
    ("a stage without value", {"pipeline": "jpeg"}, "got 'jpeg' in 'jpeg'"),
    ("an empty pipeline", {"pipeline": ""}, "got '' in ''"),
    ("a quality of zero", {"pipeline": "jpeg=0"}, "expected the quality of jpeg from 1 to 100, got '0'"),
    ("unknown filter", {"pipeline": "resize=32:lanczos"}, "expected the filter of resize as one of bilinear, bicubic"),
    ("a crop of zero", {"pipeline": "crop=0"}, "expected size as 224 or 32x48"),
    ("a pipeline of another size", {"pipeline": "resize=36"}, "add crop=32, or give another native_size"),
    ("weights that declare nothing", {"pipeline": "weights"}, "which declares none; give it as a chain such as"),
    ("native size without pipeline", {"native-size": 40}, "expected no native_size= for an encoder without pipeline="),
    ("a native size of zero", {"pipeline": "crop=32", "native-size": 0}, "expected size as 224 or 32x48"),
    ("no such pipeline", {"pipeline": "python:tests.factories:halv"}, "nearest: halve"),
    ("a pipeline's factory that fails", {"pipeline": "python:tests.cli:Outcome"}, "to make a pipeline, got TypeError"),
    ("a factory of no pipeline", {"pipeline": "python:os:getcwd"}, "to return a module or a function, got str"),
    ("a pipeline that normalises", {"pipeline": "python:tests.factories:standardise"}, "leave normalisation to the"),
    ("a pipeline without images", {"pipeline": "python:tests.factories:classify_file"}, "in [0, 1], got str"),
    ("a pipeline that fails", {"pipeline": "python:tests.factories:tiny"}, "got shape (2, 5)"),
    (
        "grid steps without a gradient",
        {"pipeline": "python:tests.factories:halve_file", "native-size": 64, "grid-steps": 5},
        "expected no grid_steps where gradients are estimated by SPSA",
    ),
    # x_in
    ("no such images", {"images": MISSING}, "/no/such/place"),
    (
        "an empty folder",
        {"images": lambda folder: (folder / "empty").mkdir() or folder / "empty"},
        "no files at all",
    ),
    (
        "a folder without images",
        {"images": lambda folder: write("t/a.csv", "1")(folder).parent},
        "1 other file",
    ),
    ("a glob without match", {"images": "/no/such/*.png"}, "/no/such/*.png"),
    (
        "an empty list",
        {"images": write("list.txt", "# nothing\n")},
        "expected one image path per line",
    ),
    ("a table without images", {"images": write("a.parquet", b"PAR1nonsensePAR1")}, "a.parquet"),
    ("misspelt data set", {"images": "torchvision:CIFAR01"}, "CIFAR10"),
    ("data set not downloaded", {"images": "torchvision:CIFAR10", "data-root": MISSING}, "--download"),
    ("strict, and a broken image", {"images": (write("p/a.png", b"x"), "{}"), "strict": True}, "a.png"),
    # starts
    ("no such start", {"start": "xray.png"}, "xray.png"),
    ("misspelt start", {"start": "noize"}, "noise"),
    ("unknown colour", {"start": "solid:grrreen"}, "grrreen"),
    ("a checkerboard of zero squares", {"start": "checkerboard:0x2"}, "checkerboard:0x2"),
    ("a truncated start", {"start": write("s.png", PNG[:60])}, "s.png"),
    ("a start that is text", {"start": write("s.jpg", "hello")}, "s.jpg"),
    # the run directory
    ("out is a file", {"out": write("out", "x")}, "expected a directory to write to, got the file"),
    ("out cannot be made", {"out": "/proc/nowhere/run"}, "choose another --out"),
    (
        "shards without a run.json",
        {"out": lambda folder: write("r/shards/00000.parquet", "x")(folder).parents[1]},
        "with shards and no run.json",
    ),
    (
        "out holds other files",
        {"out": lambda folder: write("d/thesis.tex", "x")(folder).parent},
        "with thesis.tex and no run.json",
    ),
    ("a seed too large", {"seed": str(2**63)}, "expected seed below 2^63"),
    ("infinite tolerance", {"tolerance": "inf"}, "expected a finite tolerance"),
    (
        "a start that is a number",
        {"config": write("a.toml", "start = 5"), "start": None},
        "expected start to be a string, got 5",
    ),
    (
        "run.json is incomplete",
        {"out": lambda folder: write("r/run.json", '{"format": 3}')(folder).parent},
        "cannot read",
    ),
    (
        "a run of a format that can only be read",
        {"out": lambda folder: write("r/run.json", FORMAT_2)(folder).parent},
        "expected a run of format 4 to resume, got format 2",
    ),
    ("run.json is broken", {"out": lambda folder: write("r/run.json", "{")(folder).parent}, "cannot read"),
    (
        "a run of another format",
        {"out": lambda folder: write("r/run.json", '{"format": 9}')(folder).parent},
        "expected a run of format 4, got 9",
    ),
]


def made(value: Any, folder: Path) -> Any:
    """The value of an option, after creating its files."""
    if callable(value):
        return value(folder)
    if isinstance(value, tuple):
        make, text = value
        return text.format(make(folder))
    return value


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_options_give_one_clear_sentence(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(PNG)
    options: dict[str, Any] = {
        "encoder": TINY,
        "images": tmp_path / "photos",
        "start": "noise",
        "steps": 2,
        "device": "cpu",
        "out": tmp_path / "run",
    }
    options.update({name: made(value, tmp_path) for name, value in change.items()})
    arguments: list[object] = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            arguments += [] if one is None else [f"--{name}"] if one is True else [f"--{name}", one]
    done = oodattack(capsys, "attack", *arguments)
    assert done.code == 2, done
    error = done.err[done.err.index("error: ") :]
    assert message in error, error
    assert "Traceback" not in done.err
    # One or two sentences on one line that say what is wrong, without the program's internals.
    assert error.count("\n") == 1, error
    assert len(error) < 700, error
    assert done.out == ""
    assert not list(tmp_path.glob("run/shards/*.parquet"))


def test_at_least_forty_mistakes_are_covered() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", MISSING), "expected a run directory with a run.json"),
        (("demo", "--out", "/proc/nowhere"), "choose another --out"),
        (("demo", "--out", "{}", "--steps", "0"), "expected steps >= 1, got 0"),
    ],
)
def test_bad_options_of_other_commands(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = oodattack(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def _audit(folder: Path) -> dict[str, Any]:
    """Arguments of an audit that is valid."""
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write(f"{name}/0.png", PNG)(folder)
        write(f"{name}/1.png", PNG)(folder)
    return {
        "encoder": TINY,
        "train": folder / "train",
        "test": folder / "test",
        "start": "noise",
        "steps": 2,
        "detectors": "MaxLogit",
        "out": folder / "audit",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "missing --encoder"),
        ({"train": None, "test": None}, "missing --train, --test"),
        ({"start": None}, "expected images to start from, got none; name some by --ood or --start"),
        ({"attacks": "latent,aimed"}, "expected the attack direct with aimed, which builds on it, got aimed alone"),
        ({"train": MISSING}, "it does not exist"),
        ({"test": MISSING}, "it does not exist"),
        ({"ood": MISSING}, f"expected a file, folder or generated start, got '{MISSING}'"),
        ({"test": write("one/0.png", PNG)}, "expected at least 4 images"),
        ({"ood": lambda folder: write("text/a.png", "hello")(folder).parent}, "cannot decode"),
        ({"start": "noize"}, "did you mean noise"),
        ({"detectors": "KNNN"}, "did you mean 'KNN'"),
        ({"detectors": "MCM"}, "compares images with texts"),
        ({"detectors": "none"}, "no detector was named"),
        ({"detectors": "all,none"}, "expected detectors as all or none alone, or names among"),
        ({"detectors": "KNN,KNN"}, "expected each detectors once"),
        ({"detector": "tests.factories:Nrom"}, "nearest: Norm"),
        ({"detector": "nowhere:X"}, "to be importable here"),
        ({"attacks": "latent,indirect"}, "did you mean 'direct'"),
        ({"eps": "-1"}, "expected eps >= 0"),
        ({"eps": "8", "norm": "linf"}, "give 8/255"),
        ({"budget": "5"}, "expected budget >= 1 and below the 2 steps, got 5"),
        ({"budget": "x"}, "expected budget to be an integer, got 'x'"),
        ({"limit": "1"}, "expected limit >= 2, got 1"),
        ({"steps": "0"}, "expected steps >= 1, got 0"),
        ({"layers": "conv1"}, "expected layers with feature maps, got 'conv1'"),
        ({"witness": "python:nowhere:net"}, "to be importable here"),
        (
            {"encoder": "python:tests.factories:dark", "detectors": "MaxLogit"},
            "got none (MaxLogit: it needs logits, and the encoder has no classification head)",
        ),
        ({"out": lambda folder: write("d/thesis.tex", "x")(folder).parent}, "with thesis.tex and no audit.json"),
        ({"config": write("a.toml", 'detektors = "all"')}, "did you mean 'detectors'"),
    ],
)
def test_bad_options_of_an_audit(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**_audit(tmp_path), **{name: made(value, tmp_path) for name, value in change.items()}}
    arguments = [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]
    done = oodattack(capsys, "audit", *arguments)
    assert done.code == 2, done
    error = done.err[done.err.index("error: ") :]
    assert message in error, error
    assert error.count("\n") == 1, error
    assert "Traceback" not in done.err


def test_a_damaged_audit_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [part for name, value in _audit(tmp_path).items() for part in (f"--{name}", value)]
    assert oodattack(capsys, "audit", *arguments, "--quiet").code == 0
    shard = next((tmp_path / "audit").glob("attacks/*/*/*.parquet"))
    shard.write_bytes(b"PAR1")
    done = oodattack(capsys, "audit", *arguments)
    assert done.code == 3
    assert f"cannot read {shard}" in done.out  # the other results are still reported
    fit = tmp_path / "audit" / "fits" / "MaxLogit.pt"
    fit.write_bytes(b"nothing")
    done = oodattack(capsys, "audit", *arguments)
    assert "error" in done.err
    assert str(fit) in done.err


@pytest.mark.usefixtures("without_figures")
def test_a_run_without_readable_images_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once its images are repaired, the same command succeeds."""
    broken = write("photos/a.png", b"broken")(tmp_path)
    command = ("attack", "--encoder", TINY, "--images", broken, "--start", "noise", "--steps", 2)
    done = oodattack(capsys, *command, "--out", tmp_path / "run")
    assert done.code == 2
    assert "got none that can be decoded" in done.err
    broken.write_bytes(PNG)
    assert oodattack(capsys, *command, "--out", tmp_path / "run", "--quiet").code == 0
    # Images that changed since then are reported in words, not as digests.
    broken.write_bytes(encode_png(torch.ones(3, 32, 32, dtype=torch.uint8)))
    done = oodattack(capsys, *command, "--out", tmp_path / "run")
    assert done.code == 2
    assert "(inputs.images: changed since the run began)" in done.err
    done = oodattack(capsys, *command, "--seed", 5, "--out", tmp_path / "run")
    assert "settings.seed: the run has 0, this command has 5" in done.err


@pytest.mark.usefixtures("without_figures")
def test_a_config_accepts_the_names_of_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(PNG)
    config = write("a.toml", "step-size = 0.25\ngrid_steps = 0\nsteps = 2")(tmp_path)
    command = ("attack", "--encoder", TINY, "--images", tmp_path / "photos", "--start", "noise", "--config", config)
    assert oodattack(capsys, *command, "--out", tmp_path / "a", "--quiet").code == 0
    assert open_run(tmp_path / "a").header["settings"]["step_size"] == 0.25
    assert oodattack(capsys, *command, "--step-size", 0.5, "--out", tmp_path / "b", "--quiet").code == 0
    assert open_run(tmp_path / "b").header["settings"]["step_size"] == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audit.json", "got that of an audit, {path}; open its report.md or results.json instead"),
        ("train.json", "got that of a training, {path}; open its results.json instead"),
    ],
)
def test_show_says_what_other_directories_are(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("{}")
    done = oodattack(capsys, "show", tmp_path)
    assert done == (2, "", f"error: expected the directory of a run, {message.format(path=tmp_path)}\n")


def test_show_reports_a_missing_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(PNG)
    run = tmp_path / "run"
    run_attack(AttackSettings(encoder=TINY, images=str(tmp_path / "photos"), start=("noise",), steps=2, out=run))
    done = oodattack(capsys, "show", run, "--sample", 5)
    assert done.code == 2
    assert "expected rows of" in done.err
    assert "(0 to 0), got 5" in done.err
