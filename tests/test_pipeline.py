"""The pipeline before an encoder: its value is the product's, its gradient that of a linear map close to it."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pipeline import table, through
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.models import SqueezeNet1_1_Weights

from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import make_subject
from oodattack.encoders import Encoder, load_encoder
from oodattack.encoders.pipeline.chain import Chain
from oodattack.encoders.pipeline.crop import Crop
from oodattack.encoders.pipeline.jpeg import Jpeg
from oodattack.encoders.pipeline.own import to_pillow
from oodattack.encoders.pipeline.parse import parse_pipeline
from oodattack.encoders.pipeline.resize import Resize
from oodattack.encoders.pipeline.stage import Stage
from oodattack.images import decode, encode_png
from oodattack.pipelines.attack import run_attack
from oodattack.report.style import describe
from oodattack.runs import Run, open_run, summarize
from oodattack.settings.attack import AttackSettings
from oodattack.speed import prepare
from oodattack.speed.prepared import Prepared
from tests.cli import oodattack

TINY = "python:tests.factories:tiny"  # takes 32x32 pixels
CHAIN = "resize=36+crop=32+jpeg=90"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(*shape: int, low: int = 0, high: int = 256) -> Tensor:
    """Random 8-bit images, float in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    return dequantize(torch.randint(low, high, shape, generator=generator, dtype=torch.uint8))


def product(data: bytes) -> Tensor:
    """What a product does that was written without this package: CHAIN on a file of 40x40 pixels, (3, 32, 32)."""
    small = Image.open(io.BytesIO(data)).convert("RGB").resize((36, 36), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    small.crop((2, 2, 34, 34)).save(file, "JPEG", quality=90)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def compressed(quality: int) -> io.BytesIO:
    """A JPEG file of that quality."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    return file


def levels_apart(stage: Stage, x: Tensor) -> float:
    """The largest difference between the two forms of a stage, in 8-bit levels."""
    exact = torch.stack([transforms.functional.to_tensor(stage.apply(image)) for image in to_pillow(x)])
    return float(255 * (stage.surrogate(x) - exact).abs().max())


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", [(60,), (17,), (33, 50), (50, 20)])
def test_the_surrogate_of_resizing_agrees_with_pillow(size: tuple[int, ...], name: str) -> None:
    x = noise(2, 3, 40, 46, low=64, high=192)  # Pillow would clip between its two passes where bicubic overshoots
    # Pillow rounds twice, and a bicubic filter amplifies the first error by at most a half.
    assert levels_apart(Resize(size, name), x) < 1.5
    height, width = size if len(size) == 2 else (size[0], size[0] * 46 // 40)
    expected = [image.resize((width, height), FILTERS[name]) for image in to_pillow(x)]
    assert [Resize(size, name).apply(image).tobytes() for image in to_pillow(x)] == [e.tobytes() for e in expected]


@pytest.mark.parametrize("size", [(32, 32), (7, 20), (45, 50)])
def test_the_surrogate_of_cropping_is_exact(size: tuple[int, int]) -> None:
    assert levels_apart(Crop(size), noise(2, 3, 40, 46)) < 1e-3


@pytest.mark.parametrize("quality", [50, 90, 100])
@pytest.mark.parametrize("shape", [(32, 32), (37, 24)])
def test_the_surrogate_of_jpeg_agrees_with_pillow(shape: tuple[int, int], quality: int) -> None:
    # libjpeg computes in integers, so coefficients that are halfway between two steps may be rounded the other way.
    x = transforms.functional.resize(noise(2, 3, 7, 5, low=64, high=192), list(shape)) + noise(2, 1, *shape) / 20
    files = torch.stack([transforms.functional.to_tensor(Jpeg(quality).apply(image)) for image in to_pillow(x)])
    x = dequantize(quantize(x))
    error, lost = (255 * (y - files).abs().mean() for y in (Jpeg(quality).surrogate(x), x))
    assert error < 2
    assert error < lost / 2


@pytest.mark.parametrize(("steps", "derivative"), [(0.05, 0.1), (0.3, 0.27), (0.45, 0.6075), (1.6, 0.48), (3.0, 0.1)])
def test_jpeg_passes_the_gradient_of_coefficients_between_two_steps(steps: float, derivative: float) -> None:
    # A grey image that is one cosine of each 8x8 block, of 3 half periods down and 2 across.
    n = (2 * torch.arange(8) + 1) * math.pi / 16
    cosine = (torch.cos(3 * n)[:, None] * torch.cos(2 * n)[None, :] / 4).repeat(2, 2).expand(1, 3, 16, 16)
    step = Image.open(compressed(90)).quantization[0][3 * 8 + 2]  # type: ignore[attr-defined]
    x = (0.5 + steps * step / 255 * cosine).requires_grad_(True)
    (gradient,) = torch.autograd.grad(parse_pipeline("jpeg=90")(x), x, cosine)
    assert float((gradient * cosine).sum() / cosine.square().sum()) == pytest.approx(derivative, abs=1e-3)


def test_the_value_is_the_products_and_pixels_are_rounded_first() -> None:
    x = noise(3, 3, 40, 40)
    expected = torch.stack([product(encode_png(image)) for image in quantize(x)])
    pipeline = parse_pipeline(CHAIN)
    assert torch.equal(pipeline(x), expected)
    assert torch.equal(pipeline(x + 0.4 / 255 * (1 - x)), expected)
    with torch.enable_grad():
        assert torch.equal(pipeline(x.clone().requires_grad_(True)), expected)


@pytest.mark.parametrize("spec", ["resize=36+crop=32", "resize=50", "crop=32+resize=20x24"])
def test_the_gradient_is_the_adjoint_of_the_surrogate(spec: str) -> None:
    pipeline = parse_pipeline(spec)
    assert isinstance(pipeline, Chain)
    x, along = noise(1, 3, 40, 40), noise(1, 3, 40, 40)
    x.requires_grad_(True)
    out = pipeline(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(out, x, weights)
    moved = along
    for stage in pipeline.stages:  # each is linear
        moved = stage.surrogate(moved)
    assert float((gradient * along).sum()) == pytest.approx(float((weights * moved).sum()), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("native", ["300x400", "224"])
def test_weights_are_torchvisions_own_transform(native: str) -> None:
    with pytest.warns(UserWarning, match="random weights"):
        f = load_encoder("torchvision:squeezenet1_1,weights=none", pipeline="weights", native_size=native, device="cpu")
    x = noise(1, 3, *f.input_size)
    expected = SqueezeNet1_1_Weights.DEFAULT.transforms()(to_pillow(x)[0])
    torch.testing.assert_close(f.normalise(x)[0], expected)
    assert f.pipeline is not None
    assert f.pipeline.name == "resize=256:bilinear+crop=224"


def test_weights_are_timms_own_transform() -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    with pytest.warns(UserWarning, match="random weights"):
        f = load_encoder("timm:resnet10t,weights=none,pipeline=weights,native_size=200x300", device="cpu")
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=f.model))
    x = noise(1, 3, 200, 300)
    torch.testing.assert_close(f.normalise(x)[0], transform(to_pillow(x)[0]))


def behind(pipeline: str, native: int = 40) -> Encoder:
    """The tiny encoder behind a pipeline."""
    return load_encoder(TINY, pipeline=pipeline, native_size=native, device="cpu")


def test_everything_reads_images_through_the_pipeline() -> None:
    """The encoder, its classes, the prepared copy and what detectors read."""
    bare, f = load_encoder(TINY, device="cpu"), behind(CHAIN)
    x = noise(2, 3, 40, 40)
    small = torch.stack([product(encode_png(image)) for image in quantize(x)])
    assert (f.input_size, f.has_gradient) == ((40, 40), True)
    assert torch.equal(f(x), bare(small))
    probabilities, expected = f.classify(x), bare.classify(small)
    assert probabilities is not None
    assert expected is not None
    assert torch.equal(probabilities, expected)
    fast = prepare(f)
    assert isinstance(fast, Prepared)
    torch.testing.assert_close(fast(x), f(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(make_subject(f).features(x), f(x), rtol=1e-4, atol=1e-5)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(make_subject(f).features(x).sum(), x)
    (expected_gradient,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


def test_the_digest_depends_on_the_pipeline() -> None:
    digests = [load_encoder(TINY, device="cpu").digest(), *(behind(f"crop=32+jpeg={q}").digest() for q in (90, 91, 91))]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_a_module_is_differentiated_and_a_function_is_not() -> None:
    x = noise(2, 3, 64, 64)
    module, function = behind("python:tests.factories:halve", 64), behind("python:tests.factories:halve_file", 64)
    assert (module.has_gradient, function.has_gradient) == (True, False)
    bare = load_encoder(TINY, device="cpu")
    torch.testing.assert_close(module(x), bare(torch.nn.functional.avg_pool2d(x, 2)))
    files = torch.stack([transforms.functional.to_tensor(image.reduce(2)) for image in to_pillow(x)])
    torch.testing.assert_close(function(x), bare(files))


def attacked(folder: Path, **options: object) -> Run:
    """A run on two photographs of 50x60 pixels, from noise."""
    (folder / "photos").mkdir()
    for number, image in enumerate(quantize(noise(2, 3, 50, 60))):
        (folder / "photos" / f"{number}.png").write_bytes(encode_png(image))
    given = {
        "encoder": TINY,
        "images": folder / "photos",
        "start": "noise",
        "eps": 3,
        "steps": 8,
        "out": folder / "run",
    }
    return run_attack(AttackSettings.of({**given, "device": "cpu", **options}))


def test_the_mape_of_a_run_is_that_of_the_file_in_the_product(tmp_path: Path) -> None:
    run = attacked(tmp_path, pipeline=CHAIN, native_size="40")
    bare = load_encoder(TINY, device="cpu")
    rows = run.read().to_pylist()
    assert len(rows) == 2
    for row in rows:
        data = [row[name]["bytes"] for name in ("image", "x_in", "start")]
        assert {tuple(decode(one).shape) for one in data} == {(3, 40, 40)}
        z_out, z_in, z_start = (bare(product(one)[None]) for one in data)
        assert row["mape"] == pytest.approx(float(mape(z_out, z_in)), rel=1e-4)
        assert row["mape_before"] == pytest.approx(float(mape(z_start, z_in)), rel=1e-4)
        assert row["mape"] <= row["mape_before"]
        assert row["distance"] <= 3 * (1 + 1e-6)
        assert row["pipeline"] == "resize=36:bilinear+crop=32+jpeg=90"
    assert run.header["inputs"]["pipeline"] == rows[0]["pipeline"]
    assert through(behind(CHAIN), run) == pytest.approx([100 * row["mape"] for row in rows], rel=1e-4)
    assert [group.count for group in summarize(run)] == [2]


def test_a_pipeline_without_a_gradient_is_attacked_by_spsa(tmp_path: Path) -> None:
    run = attacked(tmp_path, pipeline="python:tests.factories:halve_file", native_size="64")
    for row in run.read().to_pylist():
        assert row["gradient_evaluations"] == 0
        assert row["forward_evaluations"] > 8 * 64
        assert row["mape"] <= row["mape_before"]
        assert row["pipeline"] == "python:tests.factories:halve_file"


def test_a_run_does_not_resume_behind_another_pipeline(tmp_path: Path) -> None:
    attacked(tmp_path, pipeline="jpeg=90")
    settings = {"encoder": TINY, "images": tmp_path / "photos", "start": "noise", "eps": 3, "steps": 8}
    with pytest.raises(InputError, match=r"settings.pipeline: the run has 'jpeg=90', this command has 'jpeg=80'"):
        run_attack(AttackSettings.of({**settings, "out": tmp_path / "run", "device": "cpu", "pipeline": "jpeg=80"}))


def test_the_table_of_the_benchmark_compares_the_files_of_two_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    ours, theirs = attacked(tmp_path / "a", pipeline="jpeg=50"), attacked(tmp_path / "b")
    rows, others = (100 * np.array(run.read(["mape"])["mape"].to_pylist()) for run in (ours, theirs))
    survived = through(behind("jpeg=50", 32), theirs)
    assert not np.allclose(survived, others, rtol=1e-3)
    cells = table(ours, theirs, survived, "title").splitlines()[-1].split(" | ")
    assert cells[:3] == ["| noise", "3", "2"]
    assert [cell.split()[0] for cell in cells[4:]] == [f"{np.median(v):.3g}" for v in (others, survived, rows)]


@pytest.mark.usefixtures("without_figures")
def test_the_command_line_names_the_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    command: tuple[object, ...] = ("attack", "--encoder", TINY, "--images", tmp_path / "a.png", "--start", "noise")
    command += ("--steps", 2, "--pipeline", CHAIN, "--native-size", 40, "--out", tmp_path / "run", "--device", "cpu")
    done = oodattack(capsys, *command)
    assert done.code == 0
    assert "pipeline  resize=36:bilinear+crop=32+jpeg=90" in done.err
    assert "through resize=36:bilinear+crop=32+jpeg=90" in " ".join(done.out.split())
    assert json.loads(oodattack(capsys, *command, "--json").out)["pipeline"] == "resize=36:bilinear+crop=32+jpeg=90"
    assert " behind resize=36:bilinear+crop=32+jpeg=90," in describe(open_run(tmp_path / "run").header)
