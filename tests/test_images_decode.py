"""Every pixel format is decoded to the colour that a viewer would show."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from oodattack.core.errors import InputError
from oodattack.images import decode, encode_png, fit

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Tensor, y: int = 0, x: int = 0) -> tuple[int, ...]:
    return tuple(image[:, y, x].tolist())


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_preserve_the_pixels(kind: str, options: dict[str, Any]) -> None:
    image = noise(5, 7)
    assert torch.equal(decode(saved(Image.fromarray(image.permute(1, 2, 0).numpy()), kind, **options)), image)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 100}), ("WEBP", {}), ("GIF", {})])
def test_lossy_formats_preserve_the_colour(kind: str, options: dict[str, Any]) -> None:
    image = decode(saved(Image.new("RGB", (32, 16), (200, 100, 50)), kind, **options))
    assert image.shape == (3, 16, 32)
    assert image.dtype == torch.uint8
    assert max(abs(a - b) for a, b in zip(pixel(image, 8, 8), (200, 100, 50), strict=True)) <= 4


def test_sixteen_bit_grey_is_divided_not_clipped() -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    for kind in ("PNG", "TIFF", "PPM"):
        assert torch.equal(decode(saved(Image.fromarray(ramp), kind)), expected), kind
    assert torch.equal(decode(saved(Image.fromarray(ramp.astype(np.int32)), "TIFF")), expected)
    dark = decode(saved(Image.fromarray(ramp[2:4]), "PNG"))  # not stretched: 65535 is white even if it does not occur
    assert torch.equal(dark, expected[:, 2:4])


def test_values_beyond_sixteen_bits_are_stretched() -> None:
    hounsfield = np.array([[-1000, 0, 1000]], dtype=np.int32)
    assert decode(saved(Image.fromarray(hounsfield), "TIFF"))[0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),  # [0, 1] is kept even if the extremes do not occur
        ([0.2, 0.4, 0.4], [51, 102, 102]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([7.0, 7.0, 7.0], [0, 0, 0]),
    ],
)
def test_float_grey(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert decode(saved(image, "TIFF"))[2].tolist() == [expected]


def test_float_grey_with_nan_is_refused() -> None:
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(InputError, match="cannot decode scan: expected finite pixel values, got NaN"):
        decode(saved(image, "TIFF"), name="scan")


def test_one_bit() -> None:
    image = Image.fromarray(np.array([[False, True]]))
    assert decode(saved(image, "PNG")).tolist() == [[[0, 255]]] * 3
    assert decode(b"P1 2 1 1 0").tolist() == [[[0, 255]]] * 3  # in PBM 1 is black


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        shown = decode(saved(image, kind))
        assert [pixel(shown, 0, x) for x in range(3)] == [RED, GREEN, BLUE], kind
    shown = decode(saved(image, "PNG", transparency=1))
    assert [pixel(shown, 0, x) for x in range(3)] == [RED, WHITE, BLUE]
    shown = decode(saved(image, "PNG", transparency=bytes([255, 0, 51])))  # an alpha for each entry
    assert [pixel(shown, 0, x) for x in range(3)] == [RED, WHITE, (204, 204, 255)]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 51), (204, 204, 204)),
        ("LA", (90, 255), (90, 90, 90)),
        ("L", 90, (90, 90, 90)),
    ],
)
def test_transparency_is_composited_on_white(mode: str, colour: Any, expected: tuple[int, ...]) -> None:
    assert pixel(decode(saved(Image.new(mode, (2, 2), colour), "PNG"))) == expected


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_red_is_red(kind: str) -> None:
    """Pillow writes CMYK JPEG as Adobe does, inverted and with Adobe's marker."""
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    assert (b"Adobe" in data) == (kind == "JPEG")
    red, green, blue = pixel(decode(data), 8, 8)
    assert red > 250
    assert max(green, blue) < 5


def test_exif_rotation_is_applied() -> None:
    """Orientation 6: the camera was rotated, and the first row of the file is the rightmost column."""
    image = Image.new("RGB", (2, 3))
    image.putdata([RED, GREEN, BLUE, WHITE, WHITE, WHITE])
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = decode(saved(image, "PNG", exif=exif))
    assert shown.shape == (3, 2, 3)
    assert pixel(shown, 0, 2) == RED
    assert pixel(shown, 1, 2) == GREEN
    assert pixel(shown, 0, 1) == BLUE


def test_broken_exif_data_are_ignored() -> None:
    data = saved(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0garbage")
    assert decode(data).shape == (3, 4, 8)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    red, _, blue = pixel(decode(data), 4, 4)
    assert red > 240
    assert blue < 15


def test_sixteen_bit_colour_png() -> None:
    row = struct.pack(">6H", 0xFFFF, 0, 0, 0, 0x8080, 0xFFFF)
    data = png_of(2, 1, depth=16, colour=2, rows=b"\0" + row)
    assert decode(data).permute(1, 2, 0).tolist() == [[[255, 0, 0], [0, 128, 255]]]


def png_of(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [9_500, 14_000])
def test_decompression_bombs_are_refused_before_a_pixel_is_decoded(side: int) -> None:
    """9,500 squared is where Pillow warns, 14,000 squared where it raises; the files are 70 bytes long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the refusal must not rely on Pillow's warning
        with pytest.raises(InputError, match=r"cannot decode bomb\.png: .*(at most|exceeds limit)"):
            decode(png_of(side, side), name="bomb.png")


PHOTO = saved(Image.fromarray(noise(64, 64).permute(1, 2, 0).numpy()), "PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"these are not the pixels", "expected PNG, JPEG, .* or DICOM, got something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected PNG"),
        (PHOTO[: len(PHOTO) // 2], "truncated|broken"),
        (PHOTO[:20], ""),
        (PHOTO[:500] + bytes(500) + PHOTO[1000:], ""),
        (png_of(0, 5), ""),
        (b"P5 0 3 255 ", ""),
        (bytes(128) + b"DICM", ""),
        (bytes(128) + b"DICM" + bytes(range(256)) * 9, ""),
    ],
)
def test_undecodable_files_raise_a_one_line_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot decode .*x.png: .*({message})") as caught:
        decode(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_every_truncation_is_an_input_error_or_an_image(kind: str) -> None:
    data = saved(Image.fromarray(noise(24, 24).permute(1, 2, 0).numpy()), kind)
    assert decode(data).shape == (3, 24, 24)
    for end in range(0, len(data) // 2, 7):
        with pytest.raises(InputError, match=r"cannot decode image bytes: ."):
            decode(data[:end])


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 "]))
def test_random_bytes_raise_only_input_errors(rubbish: bytes, magic: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about broken metadata
        try:
            image = decode(magic + rubbish)
        except InputError:
            return
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot decode .*no\.png: No such file or directory"):
        decode(tmp_path / "no.png")
    with pytest.raises(InputError, match=r"cannot decode .*: Is a directory"):
        decode(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (50, 41)])
def test_png_round_trip_is_exact(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    assert torch.equal(decode(encode_png(image)), image)
    assert torch.equal(decode(encode_png(image.flip(2))), image.flip(2))  # not contiguous


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8)],
)
def test_tensors_that_are_not_images_are_refused(image: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected a uint8 image \(3, H, W\), got torch"):
        encode_png(image)
    with pytest.raises(InputError, match=r"expected a uint8 image \(3, H, W\), got torch"):
        fit(image, (2, 2))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (100, 100), (31, 77), (600, 224), (32, 32)])
@pytest.mark.parametrize("side", [32, 224])
def test_fit_equals_resizing_the_shorter_side_and_centre_cropping(shape: tuple[int, int], side: int) -> None:
    """Compared with torchvision on Pillow images, to within one level, since Pillow stores the box in float32."""
    image = noise(*shape)
    resize = v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC)
    resized = v2.CenterCrop(side)(resize(Image.fromarray(image.permute(1, 2, 0).numpy())))
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)
    difference = (fit(image, (side, side)).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.05


def test_fit_to_a_rectangle_preserves_proportions() -> None:
    """A white disc remains a disc, as wide as it is high."""
    y, x = torch.meshgrid(torch.arange(120) - 59.5, torch.arange(300) - 149.5, indexing="ij")
    disc = ((x**2 + y**2 < 40**2) * 255).to(torch.uint8).expand(3, -1, -1)
    small = fit(disc, (60, 90))
    assert small.shape == (3, 60, 90)
    seen = small[0] > 127
    assert seen.any(dim=0).sum() == seen.any(dim=1).sum() == 40
    assert torch.equal(seen, seen.flip(0))
    assert torch.equal(seen, seen.flip(1))


def test_fit_returns_an_image_of_the_right_size_unchanged() -> None:
    image = noise(8, 9)
    assert fit(image, (8, 9)) is image


def test_fit_of_a_long_strip_does_not_allocate_the_cropped_part() -> None:
    """Resized without cropping, this strip would have 224 x 22,400,000 pixels."""
    assert fit(noise(1, 100_000), (224, 224)).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5,), (2.0, 2)])
def test_fit_refuses_invalid_sizes(size: Any) -> None:
    with pytest.raises(InputError, match=r"expected a size \(height, width\) of at least 1 x 1 pixels, got \("):
        fit(noise(4, 4), size)
