"""Collections of images: folders, lists, patterns and public data sets, opened without decoding anything."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import ImageSource, digest, encode_png, open_images
from oodattack.images.labels import Labels


def grey(value: int) -> Tensor:
    return torch.full((3, 4, 6), value, dtype=torch.uint8)


def put(root: Path, *names: str) -> Path:
    """Write uniform grey PNG files with levels 0, 1, 2, ... in the order of the given names."""
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_png(grey(value)))
    return root


def test_folders_are_searched_recursively_and_sorted(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "a/10.PNG", "a/9.Jpeg", "top.png", ".hidden.png", ".git/x.png", "a/notes.md")
    source = open_images(tmp_path)
    assert source.names == ("a/10.PNG", "a/9.Jpeg", "b/2.png", "top.png")
    assert (source.spec, len(source)) == (str(tmp_path), 4)
    assert [int(source.read(index)[0, 0, 0]) for index in range(4)] == [1, 2, 0, 3]


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(open_images(put(tmp_path, "a.png", "b.png"))))
    assert torch.equal(source.read(1), grey(1))


def test_opening_decodes_nothing_and_a_bad_file_affects_no_other(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "1.png").write_text("not an image")
    source = open_images(tmp_path)
    assert len(source) == 3
    with pytest.raises(InputError, match=r"cannot decode .*1\.png: expected PNG"):
        source.read(1)
    assert torch.equal(source.read(2), grey(2))


def test_files_without_a_suffix_need_the_dicom_magic(tmp_path: Path) -> None:
    put(tmp_path, "README", "LICENSE")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.113").write_bytes(bytes(128) + b"DICM")
    assert open_images(tmp_path).names == ("1.2.840.113", "IM0001")


def test_links_are_followed_and_link_cycles_terminate(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.png")
    root = put(tmp_path / "root", "b/c.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "loop").symlink_to(root)
    assert open_images(root).names == ("b/c.png", "linked/a.png")


def whole(source: ImageSource) -> str:
    return digest(source, range(len(source)))


def test_digest_notices_names_and_contents_of_the_images_that_are_used(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    first, before = digest(open_images(tmp_path), [0]), whole(open_images(tmp_path))
    assert len(before) == 64
    assert digest(open_images(tmp_path), [1, 0, 1]) == before
    changed = bytearray((tmp_path / "b.png").read_bytes())
    changed[-1] ^= 1  # of the same size
    (tmp_path / "b.png").write_bytes(changed)
    edited = whole(open_images(tmp_path))
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    renamed = whole(open_images(tmp_path))
    assert digest(open_images(tmp_path), [0]) == first
    (tmp_path / "c.png").unlink()
    assert len({before, edited, renamed, whole(open_images(tmp_path))}) == 4


def test_digest_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    here, there = put(tmp_path / "here", "a.png"), put(tmp_path / "there", "a.png")
    assert whole(open_images(here)) == whole(open_images(there))


def test_every_kind_of_source_gives_the_content_of_one_image(tmp_path: Path) -> None:
    """If one image changes, so does its content, and no other."""
    pixels = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)

    def written(pixels: Any) -> list[ImageSource]:
        np.save(tmp_path / "array.npy", pixels)
        grey = np.ascontiguousarray(pixels[..., 0])
        head = b"\0\0\x08\x03" + np.array(grey.shape, ">u4").tobytes()
        (tmp_path / "x-images-idx3-ubyte").write_bytes(head + grey.tobytes())
        pngs = [encode_png(torch.from_numpy(image).permute(2, 0, 1)) for image in pixels]
        pq.write_table(pa.table({"image": pngs}), tmp_path / "table.parquet")
        (tmp_path / "folder").mkdir(exist_ok=True)
        for number, png in enumerate(pngs):
            (tmp_path / "folder" / f"{number}.png").write_bytes(png)
        names = ("array.npy", "x-images-idx3-ubyte", "table.parquet", "folder")
        return [open_images(tmp_path / name) for name in names]

    def contents(source: ImageSource) -> list[bytes]:
        return [source.content(index) for index in range(3)]

    before = [contents(source) for source in written(pixels)]
    changed = pixels.copy()
    changed[1, 0, 0, 0] ^= 1
    for old, source in zip(before, written(changed), strict=True):
        assert [a == b for a, b in zip(old, contents(source), strict=True)] == [True, False, True], source.spec


def test_single_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    source = open_images(tmp_path / "b.png")
    assert source.names == ("b.png",)
    assert torch.equal(source.read(0), grey(1))


def test_list_of_paths(tmp_path: Path) -> None:
    put(tmp_path, "imgs/a.png", "imgs/with space.png", "c.png")
    listing = tmp_path / "some.TXT"
    listing.write_text(
        f"\ufeff# mine\n\n ./imgs/with space.png \r\nimgs/a.png\nimgs/a.png\nimgs/gone.png\n{tmp_path / 'c.png'}\n",
        encoding="utf-8",
    )
    source = open_images(listing)
    names = ["imgs/a.png", "imgs/with space.png", "imgs/gone.png", (tmp_path / "c.png").as_posix()]
    assert source.names == tuple(sorted(names))
    read = {name: source.read(i) for i, name in enumerate(source.names) if "gone" not in name}
    assert [int(read[name][0, 0, 0]) for name in sorted(read)] == [2, 0, 1]
    gone = source.names.index("imgs/gone.png")
    with pytest.raises(InputError, match=r"cannot decode .*gone\.png: No such file"):
        source.read(gone)
    before = whole(source)
    put(tmp_path, "imgs/gone.png")
    assert whole(source) != before


def test_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        tmp_path,
        "imgs/a/1.png",
        "imgs/b/2.png",
        "imgs/b/2.jpg",
        "imgs/b/.3.png",
        "imgs/b/4.txt",
        "imgs/5.png",
    )
    (tmp_path / "imgs" / "loop").symlink_to(tmp_path / "imgs")
    assert open_images(f"{tmp_path}/imgs/**/*.png").names == ("5.png", "a/1.png", "b/2.png")
    assert open_images(f"{tmp_path}/imgs/[b-z]/*").names == ("b/2.jpg", "b/2.png")
    monkeypatch.chdir(tmp_path)
    source = open_images("imgs/?/*.png")
    assert source.names == ("a/1.png", "b/2.png")
    assert torch.equal(source.read(1), grey(1))


def test_a_file_name_may_contain_glob_characters(tmp_path: Path) -> None:
    put(tmp_path, "a[1].png")
    assert open_images(tmp_path / "a[1].png").names == ("a[1].png",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imgz", r"expected a folder, file, pattern or torchvision:NAME, got .*imgz'; did you mean .*imgs\?"),
        ("q/w/e", "got .*q/w/e'; it does not exist"),
        ("void", r"expected images in .*void, got no files at all; supported are \.png \.jpg .* \.parquet"),
        ("texts", r"expected images in .*texts, got 1 other files; supported are \.png"),
        ("imgs/*.gif", r"expected images in .*\*\.gif, got no files at all"),
        ("imgs/**x/*.png", "cannot use pattern|no files at all"),
        ("empty.txt", r"expected one image path per line in .*empty\.txt, got none"),
        ("binary.lst", r"cannot read .*binary\.lst as a list of image paths"),
    ],
)
def test_sources_without_images_raise_an_error_with_a_remedy(tmp_path: Path, spec: str, message: str) -> None:
    put(tmp_path, "imgs/a.png")
    (tmp_path / "void").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("hello")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "binary.lst").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=message):
        open_images(str(tmp_path / spec))


def test_empty_spec_and_overlong_spec() -> None:
    with pytest.raises(InputError, match="got ''; it does not exist"):
        open_images("")
    with pytest.raises(InputError, match=r"File name too long|it does not exist"):
        open_images("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/b.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(InputError, match=r"cannot read folder .*/a: Permission denied"):
            open_images(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    try:
        os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")  # noqa: PTH104 - bytes
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match="expected file names in UTF-8, got one that starts with 'caf"):
        open_images(tmp_path)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A data root with MNIST in its original format, two digits per split; training pixels start at 100."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, first in (("train", 100), ("t10k", 0)):
        pixels = ((np.arange(2 * 28 * 28) + first) % 251).astype(np.uint8)
        images = struct.pack(">IIII", 0x803, 2, 28, 28) + pixels.tobytes()
        labels = struct.pack(">II", 0x801, 2) + bytes([7, 3])
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_torchvision_splits(mnist: Path) -> None:
    test = open_images("torchvision:MNIST", data_root=mnist)
    assert test.names == ("mnist/00000", "mnist/00001")
    train = open_images("torchvision:MNIST:train", data_root=mnist)
    count = torch.arange(784, 2 * 784).reshape(1, 28, 28).expand(3, -1, -1)
    assert torch.equal(test.read(1), count.remainder(251).to(torch.uint8))
    assert torch.equal(train.read(1), (count + 100).remainder(251).to(torch.uint8))
    assert whole(train) != whole(test)
    assert torch.equal(open_images("torchvision:MNIST:test", data_root=mnist).read(1), test.read(1))
    labels = test.labels([1])
    assert labels is not None
    assert labels.names == ("3 - three",)
    assert labels.classes is not None
    assert labels.classes[:2] == ("0 - zero", "1 - one")


def test_torchvision_set_that_passes_train_to_its_parent(mnist: Path) -> None:
    """EMNIST(root, split, **kwargs): its split selects letters or digits, and its test part is read."""
    (mnist / "EMNIST").mkdir()
    raw = (mnist / "MNIST" / "raw").rename(mnist / "EMNIST" / "raw")
    for path in list(raw.iterdir()):
        path.rename(raw / f"emnist-letters-{path.name.replace('t10k', 'test')}")
    source = open_images("torchvision:EMNIST:letters", data_root=mnist)
    assert int(source.read(0)[0, 0, 0]) == 0


def test_torchvision_split_parameter(tmp_path: Path) -> None:
    """GTSRB has split= and the layout of its archive: test images in one folder, labels in a CSV file."""
    base = tmp_path / "gtsrb" / "GTSRB"
    put(base / "Final_Test" / "Images", "00000.ppm")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n00000.ppm;7\n")
    put(base / "Training" / "00001", "a.ppm", "b.ppm")
    test, train = (open_images(f"torchvision:GTSRB:{split}", data_root=tmp_path) for split in ("test", "train"))
    assert (len(test), len(train)) == (1, 2)
    assert (test.labels([0]), train.labels([1, 0])) == (
        Labels(("7",), None),
        Labels(("0", "0"), None),
    )  # the data set has no list of labels
    assert whole(open_images("torchvision:GTSRB", data_root=tmp_path)) == whole(test)
    (base / "Training" / "00001" / "a.ppm").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot read the classes of torchvision:GTSRB:train"):
        train.labels([0])
    with pytest.raises(InputError, match=r"cannot open torchvision:GTSRB:nope: .*split.*train.*test"):
        open_images("torchvision:GTSRB:nope", data_root=tmp_path)


def test_fake_data() -> None:
    source = open_images("torchvision:FakeData")
    assert len(source) == 1000
    assert source.read(3).shape == (3, 224, 224)
    assert torch.equal(source.read(3), source.read(3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:CIFAR", r"expected a torchvision data set, got 'CIFAR'; did you mean .*CIFAR10"),
        ("torchvision:mnist", "did you mean MNIST"),
        ("torchvision:Zzyzx", "see torchvision.datasets for the names"),
        ("torchvision:", "got ''"),
        ("torchvision:MNIST:val", "expected split train or test for MNIST, got 'val'"),
        ("torchvision:FakeData:test", "this data set has no splits"),
        ("torchvision:CocoDetection", "cannot open torchvision:CocoDetection: .*annFile"),
        ("torchvision:MNIST", r"MNIST was not found in .*; pass --download or --data-root"),
        ("torchvision:CIFAR10:train", r"was not found in .*; pass --download or --data-root"),
        (
            "torchvision:SEMEION",
            r"not found in .* .Dataset not found",  # it downloads by default
        ),
        ("torchvision:EMNIST:letters", r"was not found in .*; pass --download or --data-root"),
    ],
)
def test_unavailable_torchvision_sets_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_images(spec, data_root=tmp_path)
    assert not any(tmp_path.rglob("*.gz"))


def test_failed_download_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mirror refuses the connection: a local port on which nothing listens."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(
        InputError,
        match=r"downloading torchvision:MNIST to .* failed: Error downloading .*; check the network",
    ):
        open_images("torchvision:MNIST", data_root=tmp_path, download=True)


def test_a_data_set_that_does_not_return_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", np.zeros((20, 2, 64, 64), np.uint8))
    source = open_images("torchvision:MovingMNIST", data_root=tmp_path)
    with pytest.raises(
        InputError, match=r"expected torchvision:MovingMNIST to give Pillow images .*, got a tensor \(10, 1, 64, 64\)"
    ):
        source.read(0)
    assert source.labels([0]) is None


def test_image_folder_classes_need_no_special_name(tmp_path: Path) -> None:
    Image.new("L", (3, 3), 9).save(put(tmp_path, "cat/0.png") / "cat" / "1.png")
    source: Any = open_images(tmp_path)
    assert source.names == ("cat/0.png", "cat/1.png")
    assert source.read(1)[:, 0, 0].tolist() == [9, 9, 9]
