"""Start images: generated images have their defining properties, and files come in a fixed order."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import decode, encode_png, fit, open_starts


def start(spec: str | Path, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    image = open_starts(spec, size=size, seed=seed).get(0)[1]
    assert image.dtype == torch.uint8
    assert image.shape == (3, *size)
    return image


def folder_of(tmp_path: Path, count: int) -> Path:
    """Write uniform images; image i has grey level i."""
    for value in range(count):
        Image.new("RGB", (9, 7), (value, value, value)).save(tmp_path / f"{value:02d}.png")
    return tmp_path


def test_noise_is_uniform_over_all_levels_and_channels() -> None:
    image = start("noise", (128, 128))
    counts = torch.bincount(image.flatten().long(), minlength=256)
    expected = image.numel() / 256
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert 150 < chi_squared < 380  # 255 degrees of freedom: 255 +- 23
    assert torch.corrcoef(image.flatten(1).float()).fill_diagonal_(0).abs().max() < 0.05


def test_gaussian_noise_has_its_mean_and_deviation() -> None:
    image = start("noise:gaussian", (128, 128)).float() / 255
    assert image.mean() == pytest.approx(0.5, abs=0.01)
    assert 0.23 < image.std() < 0.25  # clipped at two deviations
    assert 0.04 < ((image == 0) | (image == 1)).float().mean() < 0.06


@pytest.mark.parametrize("spec", ["noise", "noise:gaussian"])
def test_noise_depends_only_on_the_seed(spec: str) -> None:
    source = open_starts(spec, size=(16, 16), seed=3)
    assert torch.equal(source.get(0)[1], source.get(7)[1])
    assert torch.equal(source.get(0)[1], start(spec, (16, 16), seed=3))
    assert not torch.equal(source.get(0)[1], start(spec, (16, 16), seed=4))
    assert source.digest(1) == open_starts(spec, size=(16, 16), seed=3).digest(9)
    assert source.digest(1) != open_starts(spec, size=(16, 16), seed=4).digest(1)


def test_generating_noise_does_not_change_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start("noise")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("spec", ["spiral", "spiral:gray"])
def test_spiral_has_two_arms_and_no_seams(spec: str) -> None:
    image = start(spec, (224, 224)).int()
    assert (image - image.flip(1, 2)).abs().max() <= 1  # rotation by 180 degrees maps one arm onto the other
    assert (image - image.flip(2)).abs().max() > 100  # but it is chiral
    assert image.diff(dim=1).abs().max() < 40
    assert image.diff(dim=2).abs().max() < 40
    assert image.max() > 250
    assert image.min() < 5


def test_spiral_is_coloured_unless_gray() -> None:
    colour, gray = start("spiral").float(), start("spiral:gray")
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])
    assert (colour - colour.mean(dim=0)).abs().mean() > 30
    assert (colour.mean(dim=0) - 127.5).abs().max() < 1.5  # channels a third of a wave apart: constant brightness


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (8, 8), (1, 3), (5, 2)])
@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_checkerboard_has_the_given_number_of_squares(rows: int, columns: int, size: tuple[int, int]) -> None:
    image = start(f"checkerboard:{rows}x{columns}", size)
    assert image[0, 0, 0] == 0
    assert set(image.flatten().tolist()) <= {0, 255}
    across, down = image[0, 0].int().diff().nonzero(), image[0, :, 0].int().diff().nonzero()
    assert (len(down) + 1, len(across) + 1) == (rows, columns)
    widths = torch.tensor([-1, *across.flatten().tolist(), size[1] - 1]).diff()
    assert widths.max() - widths.min() <= 1
    assert torch.equal((image[0, :1] != image[0, :, :1]), image[0] > 0)  # each square differs from its neighbours


@pytest.mark.parametrize(
    ("colour", "expected"), [("gray", (128, 128, 128)), ("red", (255, 0, 0)), ("#0a0B0c", (10, 11, 12))]
)
def test_solid(colour: str, expected: tuple[int, int, int]) -> None:
    assert torch.equal(start(f"solid:{colour}")[:, 5, 5], torch.tensor(expected, dtype=torch.uint8))
    assert start(f"solid:{colour}").flatten(1).float().std(dim=1).max() == 0


def test_names_are_valid_file_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "chest x-ray.v2.jpg")

    def name(spec: str | Path) -> str:
        return open_starts(spec, size=(4, 4)).name

    assert name("noise") == "noise"
    assert name("checkerboard:2x2") == "checkerboard-2x2"
    assert name("solid:#ff0000") == "solid-ff0000"
    assert name(folder / "chest x-ray.v2.jpg") == "chest-x-ray.v2"
    assert name(folder) == folder.name
    assert name("torchvision:FakeData") == "torchvision-FakeData"


def test_file_is_decoded_once_and_fitted(tmp_path: Path) -> None:
    image = torch.arange(3 * 20 * 30).reshape(3, 20, 30).to(torch.uint8)
    path = tmp_path / "xray.png"
    path.write_bytes(encode_png(image))
    source = open_starts(str(path), size=(10, 10))
    path.unlink()
    name, shown = source.get(41)
    assert (source.spec, source.name, name) == (str(path), "xray", "xray.png")
    assert torch.equal(shown, fit(image, (10, 10)))


def test_folder_is_cycled(tmp_path: Path) -> None:
    source = open_starts(folder_of(tmp_path, 3), size=(5, 5))
    handed = [source.get(index) for index in range(7)]
    assert [name for name, _ in handed] == ["00.png", "01.png", "02.png"] * 2 + ["00.png"]
    assert [int(image.float().mean()) for _, image in handed] == [0, 1, 2, 0, 1, 2, 0]
    assert all(image.shape == (3, 5, 5) for _, image in handed)


def test_random_starts_are_uniform_and_independent_of_the_order_of_calls(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 4)
    first = open_starts(folder, size=(2, 2), seed=1, order="sample")
    names = [first.get(index)[0] for index in range(400)]
    again = open_starts(folder, size=(2, 2), seed=1, order="sample")
    assert [again.get(index)[0] for index in reversed(range(400))] == names[::-1]
    counts = [names.count(name) for name in sorted(set(names))]
    assert len(counts) == 4
    assert min(counts) > 65
    other = open_starts(folder, size=(2, 2), seed=2, order="sample")
    assert 60 < sum(other.get(index)[0] == name for index, name in enumerate(names)) < 140  # a quarter by chance


def test_digest_changes_whenever_the_starts_do(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)

    def digest(count: int = 3, **changes: Any) -> str:
        options: dict[str, Any] = {"size": (4, 4), "seed": 0, "order": "cycle"}
        return open_starts(folder, **(options | changes)).digest(count)

    before = [digest(), digest(size=(5, 5)), digest(order="sample"), digest(order="sample", seed=1)]
    assert all(a != b for a, b in itertools.combinations(before, 2))
    assert digest(seed=1) == before[0]  # with starts in turn, the seed has no effect
    first = digest(1)
    Image.new("RGB", (50, 50), "red").save(folder / "01.png")
    assert digest() != before[0]
    assert digest(1) == first  # it is not used


def test_a_file_named_noise_is_opened_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    red = torch.zeros(3, 2, 2, dtype=torch.uint8)
    red[0] = 255
    (tmp_path / "noise").write_bytes(encode_png(red))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(start("./noise", (2, 2)), red)
    assert torch.equal(start(Path("noise"), (2, 2)), red)
    assert not torch.equal(start("noise", (2, 2)), red)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nosie", r"got 'nosie'; did you mean noise.*\? Generated starts: noise, noise:gaussian, spiral"),
        ("checkboard:2x2", "did you mean checkerboard:RxC"),
        ("zzzzzz", "expected a file, folder or generated start, got 'zzzzzz'; Generated starts: noise"),
        ("noise:pink", "expected one of noise, noise:gaussian, .* got 'noise:pink'"),
        ("noise:", "got 'noise:'"),
        ("spiral:blue", "got 'spiral:blue'"),
        ("checkerboard", "such as checkerboard:8x8, got 'checkerboard:'"),
        ("checkerboard:2x", "got 'checkerboard:2x'"),
        ("checkerboard:0x2", "R from 1 to 64 and C from 1 to 64, .* got 'checkerboard:0x2'"),
        ("checkerboard:65x2", "R from 1 to 64"),
        ("solid:grurple", "expected a colour such as solid:gray or solid:#ff8000, got 'solid:grurple'"),
        ("solid:", "expected a colour"),
    ],
)
def test_unknown_starts_raise_an_error_with_a_remedy(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_starts(spec, size=(64, 64))


def test_a_missing_file_suggests_one_with_a_similar_name(tmp_path: Path) -> None:
    (tmp_path / "chest_xray.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"did you mean .*chest_xray\.png\?"):
        open_starts(str(tmp_path / "chest_xry.png"), size=(4, 4))


def test_a_single_start_that_cannot_be_decoded_fails_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match=r"cannot decode .*x\.png"):
        open_starts(path, size=(4, 4))


def test_size_and_order_are_checked() -> None:
    with pytest.raises(InputError, match=r"expected a size \(height, width\) .* got \(0, 4\)"):
        open_starts("noise", size=(0, 4))
    order: Any = "shuffle"
    with pytest.raises(InputError, match="expected order cycle or sample, got 'shuffle'"):
        open_starts("noise", size=(4, 4), order=order)


def test_starts_can_be_decoded_again() -> None:
    image = start("spiral")
    assert torch.equal(decode(encode_png(image)), image)
