"""Images in MNIST's format."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oodattack.auditing.data import TrainImages
from oodattack.core.errors import InputError
from oodattack.detectors import Classifier
from oodattack.encoders import Encoder
from oodattack.images import open_images
from oodattack.images.labels import Labels
from oodattack.training.data import Labelled

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
DATA = struct.pack(">IIII", 0x803, *PIXELS.shape) + PIXELS.tobytes()
LABELS = struct.pack(">II", 0x801, 2) + bytes([3, 7])


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_images_are_read_row_by_row(tmp_path: Path, name: str, whole_folder: bool) -> None:
    path = write(tmp_path, name, DATA)
    write(tmp_path, "t10k-labels-idx1-ubyte.gz", LABELS)
    source = open_images(tmp_path if whole_folder else path)
    assert source.names == ("t10k-images/00000", "t10k-images/00001")
    for index in range(2):
        expected = torch.from_numpy(PIXELS[index].copy()).expand(3, -1, -1)
        assert torch.equal(source.read(index), expected)
    assert source.content(0) == open_images(path).content(0)
    assert source.labels([1, 0]) == Labels(("7", "3"), None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:20], "got a truncated file"),
        (DATA[:10], "got something else"),
        (LABELS + DATA, "got something else"),
        (struct.pack(">IIII", 0x803, 2**31, 2**31, 2**31), "got something else"),
        (b"", "got something else"),
    ],
)
@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(InputError, match=message):
        open_images(path)


def test_a_gz_file_that_is_not_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a-idx3-ubyte.gz"
    path.write_bytes(DATA)
    with pytest.raises(InputError, match="cannot read"):
        open_images(path)
    path.write_bytes(gzip.compress(DATA)[:-12])
    with pytest.raises(InputError, match=r"cannot read|truncated"):
        open_images(path)


def test_labels_that_do_not_match_the_images_are_refused(tmp_path: Path) -> None:
    source = open_images(write(tmp_path, "train-images-idx3-ubyte", DATA))
    assert source.labels([0]) is None
    write(tmp_path, "train-labels-idx1-ubyte", LABELS[:9])
    with pytest.raises(InputError, match=r"expected 2 bytes of labels in .*labels-idx1-ubyte, got a truncated file"):
        source.labels([0])
    write(tmp_path, "train-labels-idx1-ubyte", struct.pack(">II", 0x801, 3) + bytes(3))
    with pytest.raises(InputError, match=r"expected 2 labels in .*labels-idx1-ubyte, got 3"):
        source.labels([0])
    write(tmp_path, "train-labels-idx1-ubyte", DATA)
    with pytest.raises(InputError, match="expected labels in MNIST's idx format"):
        source.labels([0])


def test_one_of_two_files_must_be_named(tmp_path: Path) -> None:
    write(tmp_path, "train-images-idx3-ubyte", DATA)
    write(tmp_path, "t10k-images-idx3-ubyte", DATA)
    with pytest.raises(InputError, match=r"expected one file of many images in .*, got 2; name one"):
        open_images(tmp_path)


def test_classes_without_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = open_images(write(tmp_path, "a-images-idx3-ubyte", DATA))
    write(tmp_path, "a-labels-idx1-ubyte", struct.pack(">II", 0x801, 2) + bytes([11, 2]))
    images = Labelled(source, 8)
    assert images.classes == tuple(map(str, range(12)))
    assert images.labels == [11, 2]
    for count, expected in ((12, [11, 2]), (40, [11, 2]), (11, None)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, count))
        classifier = Classifier(Encoder(net, name="net", layer="input of 1", input_size=(8, 8)))
        labels = TrainImages(source, classifier, limit=2, batch_size=2).labels
        assert (None if labels is None else labels.tolist()) == expected
