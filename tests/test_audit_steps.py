"""Single steps of an audit: they return what they found, and adapt to the memory available."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from oodattack.attacks import Found
from oodattack.auditing.attack import AttackShard
from oodattack.auditing.bench import Bench
from oodattack.auditing.data import ImageSet
from oodattack.auditing.layout import FORMAT
from oodattack.auditing.plan import Attack, Shard
from oodattack.auditing.score import score_images
from oodattack.auditing.store import Audit, begun_header
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector
from oodattack.engines import PerProcess, Step
from oodattack.pipelines.audit import run_audit
from oodattack.settings import AuditSettings
from tests.factories import small, tiny

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Brightness(Detector):
    """The mean of the pixels; runs out of memory with more than ``most`` images at once."""

    def __init__(self, most: int) -> None:
        self.most = most

    def reads(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]

    def score(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise MemoryError
        return self.reads(images)[:, 0]


@pytest.mark.filterwarnings("ignore:not enough memory")
def test_scoring_halves_batches_that_do_not_fit() -> None:
    images = ImageSet("in", IMAGES, tuple("abcde"))
    steps: list[Step] = []
    detectors = {"any": Brightness(9), "one": Brightness(1), "none": Brightness(0)}
    scored = score_images(detectors, images, 4, CPU, steps.append)
    assert scored.failed == {"none": "it does not score in: MemoryError"}
    expected = dequantize(IMAGES).mean((1, 2, 3)).double()
    for name in ("any", "one"):
        torch.testing.assert_close(scored.values[name], expected)
    assert [step.rows_done for step in steps] == [0, 0, 0, 1, 2, 3, 4]


def test_a_halved_batch_starts_from_the_images_that_the_latent_attack_found_for_its_rows(tmp_path: Path) -> None:
    audit, shard = Audit(tmp_path), Shard(Attack("noise", "direct", "KNN", 1.0, 3), range(5, 10))
    assert shard.attack.initial is not None
    latent = Shard(shard.attack.initial, shard.rows)
    work = AttackShard(PerProcess[Bench](lambda: pytest.fail("not needed")), audit, {}, 5)
    with pytest.raises(
        InputError, match=r"expected the attack noise/latent-features-1-3 to be finished, got no .*00005-00010.parquet"
    ):
        work._initial(shard, range(7, 9), CPU)
    numbers = torch.zeros(5)
    audit.write_shard(latent, [Found(IMAGES, numbers, numbers, numbers.long(), numbers.long())], {})
    initial = work._initial(shard, range(7, 9), CPU)
    assert initial is not None
    assert torch.equal(initial, dequantize(IMAGES[2:4]))
    assert work._initial(latent, range(7, 9), CPU) is None
    assert audit.shards() == {("noise/latent-features-1-3", range(5, 10))}
    assert audit.read_attack("noise/latent-features-1-3")["row"].to_pylist() == [5, 6, 7, 8, 9]


def test_removing_a_detector_returns_a_new_bench() -> None:
    nothing: Any = None
    bench = Bench(nothing, nothing, {"a": Brightness(1), "b": Brightness(2)}, (), nothing)
    left = bench.without({"a": "why"})
    assert list(bench.detectors) == ["a", "b"]
    assert bench.absent == ()
    assert list(left.detectors) == ["b"]
    assert [(absent.name, absent.reason) for absent in left.absent] == [("a", "why")]
    with pytest.raises(InputError, match="no detector is left: a: x; b: y"):
        bench.without({"a": "x", "b": "y"})


class _Hungry(nn.Module):
    """Runs out of memory with more than four images at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.input_size = network, network.input_size

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cast(Tensor, self.network(x))


def hungry_small() -> nn.Module:
    return _Hungry(small())


def hungry_tiny() -> nn.Module:
    return _Hungry(tiny())


@pytest.mark.parametrize(("encoder", "labels"), [("small", "those of the training images"), ("tiny", "predictions")])
@pytest.mark.filterwarnings("ignore:not enough memory")
def test_an_audit_halves_batches_that_do_not_fit(
    encoder: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodattack.auditing.measures.RESAMPLES", 40)
    detectors = ("KNN", "Mahalanobis", "MaxLogit", "MultiMahalanobis")
    results = run_audit(
        AuditSettings(
            encoder=f"python:tests.test_audit_steps:hungry_{encoder}",
            witness=("python:tests.test_audit_steps:hungry_tiny",),
            train="torchvision:FakeData", test="torchvision:FakeData", start=("noise",), detectors=detectors,
            steps=2, limit=6, held_out=9, ood_limit=5, fit_limit=60, batch_size=6, device="cpu", out=tmp_path,
        )
    ).read_results()  # fmt: skip
    assert labels in results["subject"]["labels"]
    assert results["subject"]["train_images"] == 60
    assert {row["name"] for row in results["detectors"]} == set(detectors)
    assert results["failures"] == {}


@pytest.mark.parametrize("faulty", [{}, {"batch_size": None}, {"batch_size": 0}, {"batch_size": "4"}])
def test_a_begun_audit_without_a_usable_batch_size_is_refused(faulty: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "KNN.pt").touch()
    header: dict[str, Any] = {"format": FORMAT, "environment": {"threads": 1}}
    (tmp_path / "audit.json").write_text(json.dumps(header | {"batch_size": 4}))
    assert begun_header(tmp_path) == header | {"batch_size": 4}
    (tmp_path / "audit.json").write_text(json.dumps(header | faulty))
    with pytest.raises(InputError, match=r"expected batch_size to be at least 1 in .*audit.json, got .*choose another"):
        begun_header(tmp_path)
    (tmp_path / "audit.json").write_text(json.dumps({"format": FORMAT, "batch_size": 4, "environment": faulty}))
    with pytest.raises(InputError, match=r"expected environment.threads to be at least 1"):
        begun_header(tmp_path)


class Writes(Brightness):
    """A user's detector that changes the images that it is given."""

    source = "1" * 64

    def score(self, images: Tensor) -> Tensor:
        images.zero_()
        return super().score(images)


def test_a_detector_that_changes_its_images_does_not_affect_the_others() -> None:
    images = ImageSet("in", IMAGES, tuple("abcde"))
    detectors = {"writes": Writes(9), "reads": Brightness(9)}
    scored = score_images(detectors, images, 4, CPU, lambda _step: None)
    torch.testing.assert_close(scored.values["reads"], dequantize(IMAGES).mean((1, 2, 3)).double())
