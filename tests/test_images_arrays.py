"""Images in NumPy files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from oodattack.core.errors import InputError
from oodattack.images import open_images
from oodattack.images.labels import Labels

PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_are_read_one_at_a_time(tmp_path: Path, whole_folder: bool, order: str) -> None:
    np.save(tmp_path / "fog.npy", np.asarray(PIXELS, order=order))  # type: ignore[call-overload]
    np.save(tmp_path / "labels.npy", np.array([7, 3]))
    source = open_images(tmp_path if whole_folder else tmp_path / "fog.npy")
    assert source.names == ("fog/00000", "fog/00001")
    for index in range(2):
        image = source.read(index)
        assert torch.equal(image, torch.from_numpy(PIXELS[index].transpose(2, 0, 1).copy()))
        image.zero_()  # must not change the source
    assert torch.equal(source.read(1), pickle.loads(pickle.dumps(source)).read(1))
    assert source.labels([1, 0]) == Labels(("3", "7"), None)
    np.save(tmp_path / "labels.npy", np.array([7, 3, 1]))
    assert source.labels([1, 0]) is None  # wrong number of labels


@pytest.mark.parametrize(
    "pixels", [PIXELS.transpose(0, 3, 1, 2), PIXELS[..., 0], PIXELS[..., :1], PIXELS[:, None, :, :, 0]]
)
def test_channels_first_and_single_channel_arrays_are_accepted(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", pixels)
    expected = torch.from_numpy(PIXELS[1].transpose(2, 0, 1).copy())
    image = open_images(tmp_path / "a.npy").read(1)
    assert torch.equal(image, expected if pixels.size == PIXELS.size else expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS / 255, r"expected images in .*a\.npy as uint8 \(N, H, W, 3\), got float64 \(2, 4, 5, 3\)"),
        (np.zeros((2, 4, 5, 4), np.uint8), r"got uint8 \(2, 4, 5, 4\)"),
        (np.zeros((2, 4), np.uint8), r"got uint8 \(2, 4\)"),
        (np.zeros((0, 4, 5, 3), np.uint8), r"got uint8 \(0, 4, 5, 3\)"),
        (np.array([{}, {}]), "cannot read .* as a NumPy array"),  # would execute code
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "a.npy")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    whole = (tmp_path / "a.npy").read_bytes()
    np.savez(tmp_path / "b.npz", PIXELS)
    unclosed = whole.replace(b"}", b" ")
    for broken in (b"", whole[:40], whole[:-1], unclosed, (tmp_path / "b.npz").read_bytes()):
        (tmp_path / "a.npy").write_bytes(broken)
        with pytest.raises(InputError, match=r"cannot read .*a\.npy as a NumPy array"):
            open_images(tmp_path / "a.npy")


def test_one_of_several_files_must_be_named(tmp_path: Path) -> None:
    for name in ("fog", "snow", "labels"):
        np.save(tmp_path / f"{name}.npy", PIXELS)
    with pytest.raises(InputError, match=r"expected one file of many images in .*, got 2; name one: .*fog\.npy"):
        open_images(tmp_path)
