"""`audit()` on live models, images and detectors gives what the command gives on files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset
from torchvision.datasets import ImageFolder

from oodattack import InputError, audit
from oodattack.auditing.store import Audit
from oodattack.detectors import Loader, Subject
from oodattack.encoders import Encoder
from oodattack.images import digest, image_source, open_images
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.verify import Rescoring, verify
from oodattack.settings import AuditSettings
from tests.digits import write_photographs
from tests.factories import Norm, small, tiny

pytestmark = pytest.mark.usefixtures("few_resamples")

DETECTORS = ("MaxSoftmax", "KNN", "Mahalanobis")
SETTINGS: dict[str, Any] = {
    "eps": (2.0,),
    "steps": 3,
    "limit": 4,
    "held_out": 20,
    "ood_limit": 5,
    "fit_limit": 60,
    "batch_size": 4,
}


class Brightness:
    """A detector that is an object: bright images are out-of-distribution, beyond what it has seen."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def fit(self, loader: Loader) -> None:
        self.mean = torch.cat([images.mean((1, 2, 3)) for images, _ in loader]).mean()

    def score(self, images: Tensor) -> Tensor:
        return self.reads(images)[:, 0]

    def reads(self, images: Tensor) -> Tensor:
        return self.weight * (images.mean((1, 2, 3)) - self.mean)[:, None]


@pytest.fixture(scope="module")
def arrays(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as arrays with labels, one folder for each set."""
    folder = tmp_path_factory.mktemp("arrays")
    sets = {name: ImageFolder(str(path)) for name, path in zip(("train", "test"), digits, strict=True)}
    for name, images in sets.items():
        (folder / name).mkdir()
        np.save(folder / name / f"{name}.npy", np.stack([np.asarray(image) for image, _ in images]))
        np.save(folder / name / "labels.npy", np.array(images.targets))
    photographs = open_images(write_photographs(folder / "photographs", 6))
    pixels = [photographs.read(index).permute(1, 2, 0).numpy() for index in range(6)]
    np.save(folder / "ood.npy", np.stack(pixels))
    return folder


def tensors(arrays: Path, name: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.load(arrays / name / f"{name}.npy")).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.load(arrays / name / "labels.npy"))


@pytest.fixture(scope="module")
def by_command(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    values = {
        "encoder": "python:tests.factories:small",
        "train": arrays / "train" / "train.npy",
        "test": arrays / "test" / "test.npy",
        "ood": (arrays / "ood.npy",),
        "start": ("noise",),
        "detectors": DETECTORS,
        "detector": ("tests.factories:Norm",),
        "out": tmp_path_factory.mktemp("audits") / "command",
    }
    return run_audit(AuditSettings.of(values, SETTINGS))


def test_live_objects_give_the_results_of_the_command(arrays: Path, by_command: Audit, tmp_path: Path) -> None:
    model = small().train()
    (train, classes), (test, _) = tensors(arrays, "train"), tensors(arrays, "test")
    photographs = torch.from_numpy(np.load(arrays / "ood.npy")).permute(0, 3, 1, 2)
    found = audit(
        model,
        DataLoader(TensorDataset(train, classes), batch_size=7, shuffle=True),
        (test.float() / 255, tensors(arrays, "test")[1]),
        [*DETECTORS, Norm],
        ood={"noise": "noise", "ood": photographs},
        out=tmp_path / "audit",
        **SETTINGS,
    )
    live, command = found.read_scores(), by_command.read_scores()
    assert {name for name, _ in live} == {*DETECTORS, "Norm"}
    shared = [{key for key in scores if "Norm-" not in key[1]} for scores in (live, command)]
    assert shared[0] == shared[1]
    for key in shared[0]:
        assert torch.equal(live[key], command[key]), key
    # The attacks on a detector of the user's own are stored under the version of its code.
    versions = [sorted(key for key in scores if "direct-Norm" in key[1]) for scores in (live, command)]
    assert len(versions[0]) == len(versions[1]) > 0
    for one, other in zip(*versions, strict=True):
        assert torch.equal(live[one], command[other])
    for name in ("sets", "absent", "failures"):
        assert found.read_results()[name] == by_command.read_results()[name]
    verdicts = [{row["name"]: row["verdict"] for row in one.read_results()["detectors"]} for one in (found, by_command)]
    assert verdicts[0] == verdicts[1]
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def quick(arrays: Path, detectors: Any, **changes: Any) -> Audit:
    given: dict[str, Any] = {
        "model": small(),
        "train": tensors(arrays, "train"),
        "test": tensors(arrays, "test"),
        "ood": {"noise": "noise"},
        "attacks": ("latent", "direct"),
        **SETTINGS,
        **changes,
    }
    return audit(given.pop("model"), given.pop("train"), given.pop("test"), detectors, **given)


def test_detectors_are_names_objects_and_functions(arrays: Path) -> None:
    def doubled(subject: Subject) -> Brightness:
        assert subject.classes == 10
        return Brightness(2.0)

    found = quick(arrays, [Brightness(1.0), doubled, "KNN"]).read_scores()
    assert {name for name, _ in found} == {"Brightness", "doubled", "KNN"}
    assert torch.allclose(found["doubled", "in"], 2 * found["Brightness", "in"])
    named = quick(arrays, {"one": Brightness(1.0), "two": Brightness(2.0)}).read_scores()
    assert torch.equal(named["two", "in"], found["doubled", "in"])


def test_attacks_on_another_object_of_the_same_name_are_not_reused(arrays: Path, tmp_path: Path) -> None:
    """With weight -1, the attack must darken the image; the images of the first audit are brighter."""
    for weight in (1.0, -1.0):
        found = quick(arrays, [Brightness(weight), "MaxSoftmax"], out=tmp_path)
        scores = found.read_scores()
        [attacked] = [
            values for (name, key), values in scores.items() if "direct-Brightness" in key and name == "Brightness"
        ]
        starts = scores["Brightness", "noise"][torch.arange(len(attacked)) % len(scores["Brightness", "noise"])]
        assert bool((attacked < starts).all())


def test_a_temporary_audit_lives_as_long_as_its_object(arrays: Path, tmp_path: Path) -> None:
    found = quick(arrays, "MaxSoftmax")
    path = found.path
    assert (path / "scores.parquet").exists()
    del found
    assert not path.exists()


def test_an_encoder_brings_its_own_size_and_normalisation(arrays: Path) -> None:
    encoder = Encoder(small(), name="mine", input_size=(16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    normalised = quick(arrays, "MaxSoftmax", model=encoder)
    plain = quick(arrays, "MaxSoftmax")
    assert normalised.read_results()["subject"]["encoder"] == "mine"
    assert not torch.equal(normalised.read_scores()["MaxSoftmax", "in"], plain.read_scores()["MaxSoftmax", "in"])
    inside = nn.Sequential(_Normalise(), small())
    assert torch.equal(
        quick(arrays, "MaxSoftmax", model=inside).read_scores()["MaxSoftmax", "in"],
        normalised.read_scores()["MaxSoftmax", "in"],
    )


class _Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ".", "start": ("noise",)}, "expected no setting start, which is an argument of audit"),
        ({"esp": 3.0}, "unknown setting 'esp'; did you mean 'eps'"),
        ({"model": 3}, "expected the model as a torch.nn.Module, an oodattack.encoders.Encoder or the name"),
        ({"device": "cpu"}, "expected no device with a module"),
        ({"ood": {"a/b": "noise"}}, "expected the name of a set as letters"),
        ({"ood": {"train": "noise"}}, "none of in, targets, train, got 'train'"),
        ({"ood": {}}, "expected images to start from, got none"),
        ({"ood": {"a": torch.full((2, 3, 4, 4), 255.0)}}, "expected a with pixels in [0, 1], got 255 to 255"),
        ({"detectors": [3]}, "expected a detector as a name, an object with fit, score, reads"),
        ({"detectors": [Brightness(1.0), Brightness(2.0)]}, "two called Brightness; pass a mapping"),
        ({"detectors": {"KNN": Brightness(1.0)}, "test": 5}, "expected test as a tensor"),
        ({"train": (torch.zeros(3, 3, 4, 4), [1])}, "expected a class number for each of 3 images of train, got 1"),
    ],
)
def test_invalid_input_is_one_sentence(arrays: Path, changes: dict[str, Any], message: str) -> None:
    detectors = changes.get("detectors", "MaxSoftmax")
    with pytest.raises(InputError) as raised:
        quick(arrays, detectors, **{name: value for name, value in changes.items() if name != "detectors"})
    assert message in str(raised.value)


class _Items(Dataset[Any]):
    """Tensors with names of classes, read one at a time."""

    classes = ("cat", "dog")

    def __init__(self, images: Tensor, targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def test_a_loader_gives_the_images_of_its_sampler_in_the_order_of_the_data_set() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    data = _Items(images, [0, 1, 0, 1, 1, 0])
    part = image_source(DataLoader(data, sampler=SubsetRandomSampler([4, 1, 2])), "part")
    assert [int(part.read(index)[0, 0, 0]) for index in range(len(part))] == [1, 2, 4]
    labels = part.labels([0, 1, 2])
    assert labels is not None
    assert (labels.names, labels.classes) == (("dog", "cat", "dog"), ("cat", "dog"))
    whole = image_source(DataLoader(data, shuffle=True, batch_size=4), "whole")
    assert [int(whole.read(index)[0, 0, 0]) for index in range(6)] == list(range(6))


def test_the_digest_of_tensors_is_that_of_their_contents() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    changed = images.clone()
    changed[1, 2, 3, 3] = 1

    def of(given: Any) -> str:
        return digest(image_source(given, "a"), range(2))

    assert len({of(given) for given in (images, changed, (images, [0, 1]), (images, [1, 0]))}) == 4
    assert of(images.float() / 255) == of(images)
    assert of(TensorDataset(images, torch.tensor([0, 1]))) == of((images, [0, 1]))


def test_a_live_audit_can_be_verified(tmp_path: Path) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    audit(tiny(), images, images, ["MaxLogit"], ood={"live": images}, steps=2, limit=2, ood_limit=2, out=tmp_path)
    found = verify(tmp_path, Rescoring())
    assert found.differences == []
    assert found.unchecked == ["no image was scored again: the audit was of images in Python, which have no file"]
    results = Audit(tmp_path).read_results()
    assert set(results["digests"]) == {"train", "in", "targets", "live"}
