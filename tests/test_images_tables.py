"""Images in Parquet and Arrow files written by pyarrow and `datasets`."""

import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images import encode_png, open_images
from oodattack.images.labels import Labels

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def grey(value: int) -> Tensor:
    return torch.full((3, 4, 6), value, dtype=torch.uint8)


def png(value: int) -> bytes:
    return encode_png(grey(value))


def structs(*values: int) -> Any:
    return pa.array([{"bytes": png(value), "path": None} for value in values], IMAGE)


def write(path: Path, row_group_size: int = 2, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def values_of(source: Any) -> list[int]:
    return [int(source.read(index)[0, 0, 0]) for index in range(len(source))]


def test_rows_of_all_row_groups_in_order(tmp_path: Path) -> None:
    source = open_images(write(tmp_path / "cifar10.parquet", label=[0] * 5, image=structs(*range(5))))
    assert source.names == tuple(f"cifar10/0000{row}" for row in range(5))
    assert values_of(source) == [0, 1, 2, 3, 4]
    assert int(source.read(3)[0, 0, 0]) == 3  # in any order
    assert int(source.read(0)[0, 0, 0]) == 0
    assert values_of(pickle.loads(pickle.dumps(source))) == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        source.read(5)


def test_folder_and_pattern_of_files(tmp_path: Path) -> None:
    write(tmp_path / "data" / "test-1.parquet", image=structs(2))
    write(tmp_path / "data" / "test-0.parquet", image=structs(0, 1))
    write(tmp_path / "data" / "empty.parquet", image=structs())
    write(tmp_path / "data" / "train-0.parquet", image=structs(7))
    (tmp_path / "README.md").write_text("a data set")
    everything = open_images(tmp_path)
    assert everything.names[0] == "data/test-0/00000"
    assert list(everything.names) == sorted(set(everything.names))
    assert values_of(everything) == [0, 1, 2, 7]
    assert values_of(open_images(f"{tmp_path}/data/test-*.parquet")) == [0, 1, 2]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_the_only_column_of_bytes_is_read(tmp_path: Path, kind: Any) -> None:
    photos = pa.array([png(1), png(2)], kind)
    assert values_of(open_images(write(tmp_path / "a.parquet", text=["x", "y"], photo=photos))) == [1, 2]


def test_column_image_takes_precedence_over_img(tmp_path: Path) -> None:
    """A run of oodattack has the columns x_in and start besides image."""
    columns = {"start": structs(3), "img": structs(2), "x_in": structs(4)}
    assert values_of(open_images(write(tmp_path / "a.parquet", **columns))) == [2]
    assert values_of(open_images(write(tmp_path / "b.parquet", **columns, image=structs(1)))) == [1]


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, image=structs(1))
    os.utime(path, (0, 0))  # file system clocks are coarse; 1970 is certainly different
    before = open_images(path)
    assert values_of(before) == [1]
    assert values_of(open_images(write(path, image=structs(2)))) == [2]
    assert before.content(0) != open_images(path).content(0)


def test_only_row_groups_are_held_in_memory(tmp_path: Path) -> None:
    """Reading a row from each of 40 row groups of 1 MB keeps two of them in memory."""
    noise = [encode_png(torch.randint(0, 256, (3, 600, 600), dtype=torch.uint8)) for _ in range(2)]
    images = [{"bytes": noise[row % 2], "path": None} for row in range(40)]
    path = write(tmp_path / "big.parquet", row_group_size=1, image=pa.array(images, IMAGE))
    del images
    source = open_images(path)
    before, most = pa.total_allocated_bytes(), 0
    for index in range(40):
        source.read(index)
        most = max(most, pa.total_allocated_bytes() - before)
    assert path.stat().st_size > 40e6
    assert most < 8e6


def test_opening_reads_no_row(tmp_path: Path) -> None:
    """After the first row group is overwritten, only its own rows fail."""
    path = write(tmp_path / "a.parquet", image=structs(*range(6)))
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    source = open_images(path)
    assert len(source) == 6
    assert int(source.read(5)[0, 0, 0]) == 5
    with pytest.raises(InputError, match=r"cannot read .*a\.parquet, row group 0: "):
        source.read(0)


def test_rows_without_an_image_fail_alone(tmp_path: Path) -> None:
    rows: list[Any] = [None, {"bytes": None, "path": None}, {"bytes": b"rubbish", "path": None}]
    rows += [{"bytes": None, "path": "beside.png"}, {"bytes": png(9), "path": "gone.png"}]
    (tmp_path / "beside.png").write_bytes(png(8))
    source = open_images(write(tmp_path / "a.parquet", image=pa.array(rows, IMAGE)))
    for index in (0, 1):
        with pytest.raises(InputError, match=f"cannot decode a/0000{index} of .*: the row has no image"):
            source.read(index)
    with pytest.raises(InputError, match=r"cannot decode a/00002 of .*a\.parquet: expected PNG"):
        source.read(2)
    assert [int(source.read(index)[0, 0, 0]) for index in (3, 4)] == [8, 9]


def test_files_written_by_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is missing")
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()})
    images = [{"bytes": png(value), "path": None} for value in range(5)]
    made = datasets.Dataset.from_dict({"label": list(range(5)), "photo": images}, features=features)
    made.to_parquet(str(tmp_path / "hub.parquet"), batch_size=2)
    assert values_of(open_images(tmp_path / "hub.parquet")) == [0, 1, 2, 3, 4]

    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": made, "test": made.select([3, 1])}).save_to_disk(
        str(saved), num_shards={"train": 2, "test": 1}
    )
    assert values_of(open_images(saved / "test")) == [3, 1]
    assert values_of(open_images(saved / "train")) == [0, 1, 2, 3, 4]
    assert open_images(saved).names[0] == "test/data-00000-of-00001/00000"
    made.map(lambda row: row, cache_file_name=str(saved / "train" / "cache-0123.arrow"))
    assert len(open_images(saved / "train")) == 5  # caches written by datasets next to the data are skipped


def test_labels_are_numbers_or_names(tmp_path: Path) -> None:
    numbers = open_images(write(tmp_path / "a.parquet", label=[2, 0, 1], image=structs(1, 2, 3)))
    assert numbers.labels([0, 2]) == Labels(("2", "1"), None)
    write(tmp_path / "b" / "1.parquet", label=["dog", "cat"], image=structs(1, 2))
    write(tmp_path / "b" / "2.parquet", label=["emu"], image=structs(3))
    assert open_images(tmp_path / "b").labels([2, 1]) == Labels(("emu", "cat"), ("cat", "dog", "emu"))
    assert open_images(write(tmp_path / "c.parquet", image=structs(1))).labels([0]) is None
    assert open_images(write(tmp_path / "d.parquet", label=[0, None], image=structs(1, 2))).labels([0, 1]) is None
    assert open_images(write(tmp_path / "e.parquet", label=[0.5], image=structs(1))).labels([0]) is None
    write(tmp_path / "f" / "1.parquet", label=[0], image=structs(1))
    write(tmp_path / "f" / "2.parquet", image=structs(1))
    assert open_images(tmp_path / "f").labels([0]) is None  # some files have no labels


def test_labels_written_by_datasets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is missing")
    kinds = {"breed": datasets.ClassLabel(names=["pug", "husky"]), "label": datasets.Value("string")}
    features = datasets.Features({**kinds, "image": datasets.Image()})
    images = [{"bytes": png(value), "path": None} for value in range(3)]
    rows = {"breed": [1, 0, 1], "label": ["x", "y", "z"], "image": images}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(str(tmp_path / "hub.parquet"))
    made.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    for place in ("hub.parquet", "saved"):
        source = open_images(tmp_path / place)
        assert source.labels([2, 1]) == Labels(("husky", "pug"), ("pug", "husky"))


def test_columns_that_cannot_be_chosen_are_listed(tmp_path: Path) -> None:
    none = write(tmp_path / "none.parquet", label=[1], text=["a"])
    with pytest.raises(InputError, match=r"'image' in .*none.parquet, got none: the columns are label, text"):
        open_images(none)
    several = write(tmp_path / "several.parquet", left=structs(1), right=structs(2), n=[1])
    with pytest.raises(InputError, match="got several: the columns are left, right, n; rename the one to read"):
        open_images(several)


def test_broken_empty_and_mixed_tables_are_refused(tmp_path: Path) -> None:
    for suffix in ("parquet", "arrow"):
        broken = tmp_path / f"broken.{suffix}"
        for content in (b"", b"PAR1 not really"):
            broken.write_bytes(content)
            with pytest.raises(InputError, match=rf"cannot read .*broken\.{suffix} as a table: ."):
                open_images(broken)
    with pytest.raises(InputError, match=r"expected one format in .*, got .parquet and .arrow"):
        open_images(tmp_path)
    with pytest.raises(InputError, match="got tables without rows"):
        open_images(write(tmp_path / "empty" / "a.parquet", image=structs()))


def test_a_folder_of_images_and_tables_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "shard.parquet", image=structs(1))
    (tmp_path / "figure.png").write_bytes(png(2))
    with pytest.raises(InputError, match=r"images or tables in .*, got both; open .*\*\.png or .*\*\.parquet"):
        open_images(tmp_path)
    assert values_of(open_images(f"{tmp_path}/**/*.parquet")) == [1]
    assert values_of(open_images(f"{tmp_path}/**/*.png")) == [2]


def test_a_damaged_arrow_file_is_refused(tmp_path: Path) -> None:
    """Corruption that pyarrow does not check for: decreasing offsets, and names that are not valid text."""
    path = tmp_path / "a.arrow"
    offsets = pa.array([0, 8, 4, 8], pa.int32()).buffers()[1]
    damaged = pa.Array.from_buffers(pa.binary(), 3, [None, offsets, pa.py_buffer(bytes(8))])
    with pa.ipc.new_stream(path, pa.schema([("image", pa.binary())])) as stream:
        stream.write_table(pa.table({"image": damaged}))
    source = open_images(path)
    for index in range(3):
        with pytest.raises(InputError, match=r"cannot read .*a\.arrow, row group 0: .*offset"):
            source.read(index)
    table = pa.table({"image": structs(1), "more": [2]})
    for name, message in (("path", "cannot decode a/00000 of"), ("more", "cannot read")):
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
        path.write_bytes(path.read_bytes().replace(name.encode(), b"\xff" * 4))
        with pytest.raises(InputError, match=rf"{message} .*a\.arrow.*: 'utf-8' codec"):
            open_images(path).read(0)
