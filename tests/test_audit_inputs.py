"""The images of an audit: which are attacked, which set thresholds, and from which attacks start."""

from pathlib import Path
from typing import Any

import pytest
import torch

from oodattack.attacks import Found
from oodattack.auditing.data import ImageSet
from oodattack.auditing.inputs import Inputs, read_inputs
from oodattack.auditing.plan import Attack, Shard
from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.detectors import Subject, make_subject
from oodattack.encoders import load_encoder
from oodattack.images import decode, open_images
from oodattack.settings import AuditSettings
from oodattack.storage.tables import read_table
from tests.digits import write_photographs


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject(load_encoder("python:tests.factories:small", device="cpu"))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 9)


def _read(digits: tuple[Path, Path], subject: Subject, **changes: Any) -> Inputs:
    values: dict[str, Any] = {
        "encoder": "python:tests.factories:small",
        "train": str(digits[0]),
        "test": str(digits[1]),
        "start": ("noise",),
        "limit": 10,
        "held_out": 50,
        "ood_limit": 4,
        "out": Path("unused"),
    }
    return read_inputs(AuditSettings(**{**values, **changes}), subject, 8)


def test_held_out_images_are_not_attacked(digits: tuple[Path, Path], subject: Subject) -> None:
    found = _read(digits, subject)
    assert (len(found.targets.names), len(found.inside.names)) == (10, 50)
    assert len({*found.targets.names, *found.inside.names}) == 60
    assert set(found.inside.names) <= set(open_images(digits[1]).names)
    assert found.train.source.spec == str(digits[0])
    # Of few images, half are held out.
    some = _read(digits, subject, limit=1000, held_out=1000)
    count = len(open_images(digits[1]))
    assert (len(some.targets.names), len(some.inside.names)) == (count // 2, count - count // 2)
    assert len({*some.targets.names, *some.inside.names}) == count


def test_the_seed_decides_which_images_are_used(digits: tuple[Path, Path], subject: Subject, photographs: Path) -> None:
    one, same, other = (_read(digits, subject, seed=seed, ood=(str(photographs),)) for seed in (0, 0, 1))
    for name in ("in", "targets", "photographs", "noise"):
        assert one.clean[name].names == same.clean[name].names
        assert torch.equal(one.clean[name].images, same.clean[name].images)
        assert not torch.equal(one.clean[name].images, other.clean[name].images)
    # Targets are drawn from all classes, not in the order of the folders.
    assert len({name.split("/")[0] for name in one.targets.names}) > 2


def test_each_set_has_its_own_starts(digits: tuple[Path, Path], subject: Subject, photographs: Path) -> None:
    found = _read(digits, subject, start=("noise", "noise:gaussian", "solid:gray"), ood=(str(photographs),))
    assert list(found.sets) == ["noise", "noise-gaussian", "solid-gray", "photographs"]
    for name, images in found.sets.items():
        count = 1 if name == "solid-gray" else 4  # a picture without random draws is a single start
        assert len(images.names) == len(set(images.names)) == count
        assert len(torch.unique(images.images, dim=0)) == count  # generated noise differs
        starts = found.starts[name]
        assert starts.names == tuple(images.names[row % count] for row in range(10))
        assert torch.equal(starts.images[-1], images.images[9 % count])


def test_sets_of_the_same_name_are_told_apart(
    digits: tuple[Path, Path], subject: Subject, tmp_path: Path, photographs: Path
) -> None:
    folders = [tmp_path / name / last for name, last in (("a", "train"), ("b", "photographs-2"), ("c", "photographs"))]
    specs = [str(photographs), *(str(write_photographs(folder, 2 + n)) for n, folder in enumerate(folders))]
    found = _read(digits, subject, start=(), ood=tuple(specs))
    names = ["photographs", "train-2", "photographs-2", "photographs-3"]
    assert {name: len(images.names) for name, images in found.sets.items()} == dict(
        zip(names, (4, 2, 3, 4), strict=True)
    )


def test_samples_are_replaced_only_before_an_attack(tmp_path: Path) -> None:
    """An audit that stopped before its first attack may begin again with other settings."""
    images = torch.randint(0, 256, (3, 2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    first, second, start = (ImageSet("noise", some, ("a", "b")) for some in images)
    audit, file = Audit(tmp_path), tmp_path / "samples" / "noise.parquet"

    def stored(column: str) -> torch.Tensor:
        return torch.stack([decode(cell["bytes"]) for cell in read_table(file)[column].to_pylist()])

    audit.write_samples(first, start)
    written = file.stat().st_mtime_ns
    audit.write_samples(first, start)
    assert file.stat().st_mtime_ns == written
    audit.write_samples(second, start)
    assert torch.equal(stored("x_in"), second.images)
    assert torch.equal(stored("start"), start.images)
    numbers = torch.zeros(2)
    shard = Shard(Attack("noise", "latent", "features", 1.0, 3), range(2))
    audit.write_shard(shard, [Found(images[0], numbers, numbers, numbers.long(), numbers.long())], {})
    audit.write_samples(second, start)
    with pytest.raises(InputError, match=r"expected the set noise to have the starts of .*noise.parquet, got others"):
        audit.write_samples(second, ImageSet("noise", images[0], ("a", "b")))
