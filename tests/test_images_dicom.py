"""Medical images are displayed as in a radiology viewer, checked against the standard's formulas."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodattack.core.errors import InputError
from oodattack.images import decode

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs the extra 'dicom'")
from pydicom.data import get_testdata_file  # noqa: E402 - after the check above
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless  # noqa: E402

CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))


def written(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def made(pixels: np.ndarray[Any, Any], **fields: Any) -> Any:
    """A DICOM data set of unsigned pixels, (rows, columns) or (rows, columns, 3)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


def windowed(values: np.ndarray[Any, Any], centre: float, width: float) -> np.ndarray[Any, Any]:
    """PS3.3 C.11.2.1.2.1, LINEAR, mapped to 0..255."""
    shown = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.rint(np.clip(shown, 0, 255)).astype(np.int64)


def test_ct_without_a_window_is_scaled_from_smallest_to_largest_value() -> None:
    stored = pydicom.dcmread(CT).pixel_array.astype(np.float64)  # rescale slope 1: values are unchanged here
    expected = np.rint((stored - stored.min()) / (stored.max() - stored.min()) * 255)
    image = decode(CT)
    assert image.shape == (3, 128, 128)
    assert np.array_equal(image.numpy(), np.stack([expected] * 3))


@pytest.mark.parametrize("intercept", [-1024, -500.5])
def test_ct_is_windowed_after_the_rescale(intercept: float) -> None:
    dataset = pydicom.dcmread(CT)
    dataset.RescaleIntercept, dataset.RescaleSlope = intercept, 2
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    expected = windowed(dataset.pixel_array * 2.0 + intercept, 40, 400)
    image = decode(written(dataset))[0].numpy().astype(np.int64)
    assert 0 < np.mean((expected > 0) & (expected < 255)) < 1  # the window clips on both sides
    assert np.abs(image - expected).max() <= 1  # halves may be rounded either way
    assert np.mean(image != expected) < 0.01


def test_the_first_of_several_windows_is_used() -> None:
    ramp = np.arange(0, 2000, 10, dtype=np.uint16).reshape(10, 20)
    dataset = made(ramp, WindowCenter=[500, 1500], WindowWidth=[200, 100])
    assert np.abs(decode(written(dataset))[0].numpy() - windowed(ramp, 500, 200)).max() <= 1


def test_a_window_wider_than_the_image_does_not_stretch_it() -> None:
    dataset = made(np.array([[100, 150]], dtype=np.uint8), WindowCenter=128, WindowWidth=256)
    assert decode(written(dataset))[0].tolist() == [[100, 150]]


def test_sigmoid_window_far_from_its_centre() -> None:
    """PS3.3 C.11.2.1.3.1; far below the window the exponential overflows, which correctly gives black."""
    row = np.array([[0, 29_990, 30_000, 30_010, 65_535]], dtype=np.uint16)
    dataset = made(row, WindowCenter=30_000, WindowWidth=20, VOILUTFunction="SIGMOID")
    expected = [0, round(255 / (1 + np.exp(2))), 128, round(255 / (1 + np.exp(-2))), 255]
    assert decode(written(dataset))[0].tolist() == [expected]


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 128, "WindowWidth": 256}])
def test_monochrome1_is_inverted(window: dict[str, int]) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = decode(written(made(ramp, **window)))
    inverted = decode(written(made(ramp, PhotometricInterpretation="MONOCHROME1", **window)))
    assert np.array_equal(plain[0].numpy(), ramp)
    assert np.array_equal(inverted[0].numpy(), 255 - ramp)


def test_the_look_up_table_is_used_without_a_window() -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 10, 16])  # four entries, the first for value 10
    table.add_new("LUTData", "US", [0, 6000, 3000, 30000])
    row = np.array([[10, 11, 12, 13, 99]], dtype=np.uint16)
    dataset = made(row, VOILUTSequence=[table], RescaleSlope=1, RescaleIntercept=0)
    assert decode(written(dataset))[0].tolist() == [[0, 51, 26, 255, 255]]


def test_colour_and_first_frame() -> None:
    pixels = np.array([[[255, 0, 0], [0, 128, 255]]], dtype=np.uint8)
    assert np.array_equal(decode(written(made(pixels))).permute(1, 2, 0).numpy(), pixels)
    sixteen = made(pixels.astype(np.uint16) * 257)
    assert np.array_equal(decode(written(sixteen)).permute(1, 2, 0).numpy(), pixels)
    two = made(pixels, NumberOfFrames=2)
    two.PixelData = pixels.tobytes() + bytes(6)
    assert np.array_equal(decode(written(two)).permute(1, 2, 0).numpy(), pixels)


def test_luma_and_chroma_become_rgb() -> None:
    red = np.array([[[76, 85, 255]]], dtype=np.uint8)  # JFIF's Y, Cb, Cr of pure red
    shown = decode(written(made(red, PhotometricInterpretation="YBR_FULL"))).flatten().tolist()
    assert np.abs(np.array(shown) - [255, 0, 0]).max() <= 2


def test_palette_colour() -> None:
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in (("Red", [0, 65535]), ("Green", [0x8080, 0]), ("Blue", [0, 0])):
        fields[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        fields[f"{colour}PaletteColorLookupTableData"] = np.array(entries, dtype="<u2").tobytes()
    dataset = made(np.array([[0, 1]], dtype=np.uint8), **fields)
    assert decode(written(dataset)).permute(1, 2, 0).tolist() == [[[0, 128, 0], [255, 0, 0]]]


def test_old_files_without_the_magic(tmp_path: Path) -> None:
    """As written by scanners of the 1990s: a bare data set, recognised only by its suffix."""
    dataset = pydicom.dcmread(CT)
    bare = tmp_path / "old.DCM"
    pydicom.dcmwrite(bare, Dataset(dataset), implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(decode(bare).numpy(), decode(CT).numpy())


def test_truncated_files_are_refused() -> None:
    with pytest.raises(InputError, match="cannot decode ct: "):
        decode(CT.read_bytes()[:-5000], name="ct")


def test_text_with_a_dicom_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_text("The patient was well. " * 20)
    with pytest.raises(InputError, match=r"cannot decode .*notes\.dcm: "):
        decode(path)


def test_dicom_without_an_image_is_refused() -> None:
    dataset = made(np.zeros((1, 1), np.uint8))
    del dataset.Rows
    with pytest.raises(InputError, match="not DICOM, or DICOM without an image"):
        decode(written(dataset))


def test_bomb_is_refused_by_its_header() -> None:
    dataset = made(np.zeros((1, 1), np.uint8), Rows=60_000, Columns=60_000)
    with pytest.raises(InputError, match=r"expected at most .* pixels, got 60000 x 60000"):
        decode(written(dataset))


def test_missing_decoder_is_an_input_error() -> None:
    """JPEG-LS needs a plugin that the extra does not install; truncated either way."""
    dataset = made(np.zeros((4, 4), np.uint8))
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7\0\0"])
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(InputError, match="cannot decode ls: Unable to"):
        decode(written(dataset), name="ls")
