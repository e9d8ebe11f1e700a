"""Training: what is minimised, what is kept, and that a stop changes nothing."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pytorch_ood.detector import EnergyBased
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from oodattack.audit.measures import measure
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier, make_detectors
from oodattack.encoders import load_encoder
from oodattack.images import evenly, open_images
from oodattack.networks import Bottleneck, CifarResNet
from oodattack.networks.bottleneck import rate
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.train import Training, train
from oodattack.runs import summarize
from oodattack.settings import AuditSettings
from oodattack.settings.attack import AttackSettings
from oodattack.settings.train import TrainSettings
from oodattack.training.data import Labelled, Outliers
from oodattack.training.losses import loss
from tests.digits import SIDE, write_digits, write_photographs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return *write_digits(folder / "digits"), write_photographs(folder / "photographs", 12)


def settings(pictures: tuple[Path, Path, Path], out: Path, **changes: Any) -> TrainSettings:
    _, test, photographs = pictures  # the smaller part, to be quick
    values: dict[str, Any] = {
        "train": str(test),
        "outliers": (str(photographs),),
        "network": "resnet8",
        "size": SIDE,
        "epochs": 3,
        "out": out,
    }
    return TrainSettings(**{**values, **changes})


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("method", ["plain", "outlier-exposure", "confidence", "bottleneck"])
def test_a_stopped_training_goes_on_to_the_same_weights(
    pictures: tuple[Path, Path, Path], tmp_path: Path, method: str
) -> None:
    def stop(now: Training) -> None:
        if now.name.startswith("epoch 2") and now.done == 2:
            raise Stop

    changes: dict[str, Any] = {"method": method, "epochs": 2}
    if method == "confidence":
        changes["size"] = 32
    whole = settings(pictures, tmp_path / "whole", **changes)
    train(whole)
    parted = settings(pictures, tmp_path / "parted", **changes)
    with pytest.raises(Stop):
        train(parted, on_progress=stop)
    assert not (parted.out / "model.safetensors").exists()
    train(parted)
    weights = [load_file(s.out / "model.safetensors") for s in (whole, parted)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((whole.out / "results.json").read_text()) == json.loads((parted.out / "results.json").read_text())


def test_a_trained_network_is_an_encoder_with_class_names(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    results = train(settings(pictures, tmp_path / "net", test=str(pictures[1])))
    assert results["loss"][-1] < results["loss"][0]
    encoder = load_encoder(f"trained:{tmp_path / 'net'}", device="cpu")
    assert encoder.classes == tuple(f"digit{i}" for i in range(10))
    images = Labelled(open_images(pictures[1]), SIDE)
    everything = torch.stack([images[i][0] for i in range(len(images))])
    right = (encoder.classify(everything).argmax(1) == torch.tensor(images.labels)).double().mean()  # type: ignore[union-attr]
    assert float(right) == pytest.approx(results["test_accuracy"])


def test_a_table_with_labels_trains_as_its_images_in_folders_do(
    pictures: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folders = open_images(pictures[1])
    rows = [{"image": (pictures[1] / name).read_bytes(), "label": Path(name).parent.name} for name in folders.names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "digits.parquet")
    for name, source in (("folders", pictures[1]), ("table", tmp_path / "digits.parquet")):
        train(settings(pictures, tmp_path / name, train=str(source), epochs=1))
    one, other = (load_encoder(f"trained:{tmp_path / name}", device="cpu") for name in ("folders", "table"))
    assert one.classes == other.classes
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def test_a_public_set_is_trained_on_by_its_numbers(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels, labels = load_digits(return_X_y=True)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 6:22, 6:22] = np.kron(pixels.reshape(-1, 8, 8) * 15.9, np.ones((2, 2)))
    for part, chosen in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        count = len(labels[chosen])
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images[chosen].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels[chosen].astype(np.uint8).tobytes()
        )
    public: dict[str, Any] = {
        "train": "torchvision:KMNIST:train",
        "test": "torchvision:KMNIST",
        "data_root": tmp_path / "data",
    }
    results = train(TrainSettings(**public, network="resnet8", size=16, epochs=1, out=tmp_path / "net"))
    encoder = load_encoder(f"trained:{tmp_path / 'net'}", device="cpu")
    assert encoder.classes is not None
    assert encoder.classes[3] == "tsu"
    audit = run_audit(
        AuditSettings(
            **public,
            encoder=f"trained:{tmp_path / 'net'}",
            start=("torchvision:KMNIST:train",),
            limit=len(labels[1500:]),
            batch_size=64,
            fit_limit=100,
            detectors=("MaxLogit",),
            attacks=("latent",),
            steps=1,
            out=tmp_path / "audit",
        )
    )
    found = audit.read_results()["classifier"]
    assert found["test_accuracy"] == pytest.approx(results["test_accuracy"])
    public_images = Labelled(open_images("torchvision:KMNIST:train", data_root=tmp_path / "data"), 16)
    x, y = next(iter(DataLoader(Subset(public_images, evenly(1500, 100)), 100)))
    right = Classifier(encoder).logits(x).argmax(1) == y
    assert found["train_accuracy"] == pytest.approx(float(right.double().mean()))
    attacked = run_attack(
        AttackSettings(
            encoder=f"trained:{tmp_path / 'net'}",
            images="torchvision:KMNIST",
            start=("torchvision:KMNIST:train",),
            data_root=tmp_path / "data",
            limit=2,
            steps=1,
            out=tmp_path / "run",
        )
    )
    assert [group.count for group in summarize(attacked)] == [2]


def test_the_losses_are_the_papers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).requires_grad_(False)
    x, out, y = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.tensor([0, 2, 1, 0])
    plain = F.cross_entropy(net(x), y)
    assert torch.allclose(loss(net, x, y, 7.0, None), plain)
    uniform = -F.log_softmax(net(out), dim=1).mean(1).mean()
    assert torch.allclose(loss(net, x, y, 0.5, lambda _model, _images: out), plain + 0.5 * uniform)
    bottleneck = Bottleneck(CifarResNet(1), classes=3, width=4).train()
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    total = loss(bottleneck, images, y, 0.1, None)
    torch.manual_seed(1)
    mean, log_variance = bottleneck.stats(bottleneck.body.pooled(images)).chunk(2, dim=1)
    q = Normal(mean, (log_variance / 2).exp())
    nats = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    drawn = bottleneck.linear(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    assert torch.allclose(total, F.cross_entropy(drawn, y) + 0.1 * nats.mean(), rtol=1e-4)
    assert torch.allclose(rate(torch.cat([mean, log_variance], dim=1)), nats, rtol=1e-4)


def test_outliers_are_half_attacked_ones_once_there_are_any(pictures: tuple[Path, Path, Path]) -> None:
    natural_ones = [open_images(pictures[2])]
    outliers = Outliers(natural_ones, SIDE)
    held = Outliers(natural_ones, SIDE, hold_out=True)
    drawn = held.draw(200, torch.Generator().manual_seed(0))
    natural = torch.stack([dequantize(held.get(i)) for i in range(12)])
    which = torch.cdist(drawn.flatten(1), natural.flatten(1)).argmin(1).tolist()
    assert set(which) == {0, 2, 4, 6, 8, 10}  # what is measured with is never trained on
    assert list(held.held_out) == [1, 3, 5, 7, 9, 11]
    white = torch.full((3, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert (outliers.draw(50, generator) == 1).flatten(1).all(1).sum() == 0
    outliers.found.append(white)
    assert (outliers.draw(50, generator) == 1).flatten(1).all(1).sum() == 25
    assert torch.equal(outliers.get(len(outliers) - 1), white[0])
    with pytest.raises(IndexError):
        outliers.get(len(outliers))


@pytest.mark.slow
def test_rounds_attack_what_they_trained(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    told: list[str] = []
    photographs = write_photographs(tmp_path / "photographs", 24)
    changes = {"test": str(pictures[1]), "outliers": (str(photographs),), "rounds": 1, "round_epochs": 2}
    changes |= {"round_images": 16, "eps": 3.0}
    first = settings(pictures, tmp_path / "net", **changes)
    results = train(first, on_progress=lambda now: told.append(now.name))
    rows = results["rounds"]
    assert [row["round"] for row in rows] == [0, 1]
    assert "old" not in rows[0]["EnergyBased"]
    assert {"natural", "old", "new", "longer", "larger", "direct"} == set(rows[1]["MaxSoftmax"])
    # The ball binds: twice its radius helps, more steps do not.
    assert all(row["mape"]["larger"] < 0.5 * row["mape"]["new"] for row in rows)
    assert all(row["mape"]["longer"] == pytest.approx(row["mape"]["new"], rel=0.5) for row in rows)
    assert all(row["mape"]["longer"] != row["mape"]["new"] for row in rows)
    assert all(0 <= row["EnergyBased"]["new"]["auroc"] <= 1 for row in rows)
    assert rows[1]["EnergyBased"]["natural"]["count"] == 12  # each once, though attacks start from some of them twice
    kept = torch.load(tmp_path / "net" / "rounds" / "001" / "state.pt", weights_only=True)
    weights = load_file(tmp_path / "net" / "rounds" / "001" / "model.safetensors")
    again = load_encoder(f"trained:{tmp_path / 'net' / 'rounds' / '001'}", device="cpu").model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not torch.equal(weights["linear.bias"], load_file(tmp_path / "net" / "model.safetensors")["linear.bias"])
    outliers = Outliers([open_images(photographs)], SIDE)
    starts = torch.stack([outliers.get(i) for i in range(0, 24, 2)])
    distances = torch.cdist(dequantize(kept["found"]).flatten(1), dequantize(starts).flatten(1)).amin(1)
    assert (distances <= 3 * (1 + 1e-4)).all()  # attacked from outliers at even places
    # Images from one start do not count as independent.
    encoder = load_encoder(f"trained:{tmp_path / 'net' / 'rounds' / '001'}", device="cpu")
    test = Labelled(open_images(pictures[1]), SIDE)
    x_test = torch.stack([test[i][0] for i in evenly(len(test), 16)])
    before = torch.load(tmp_path / "net" / "rounds" / "000" / "state.pt", weights_only=True)["fresh"]
    logits = [Classifier(encoder).logits(x).detach() for x in (x_test, dequantize(kept["fresh"]), dequantize(before))]
    inside, outside, fooled = (EnergyBased.score(z) for z in logits)
    assert not torch.equal(outside, fooled)
    # What fooled the network of before is judged by the one that was trained on its like.
    assert rows[1]["EnergyBased"]["old"]["auroc"] == pytest.approx(measure(inside, fooled, paired=True).auroc, abs=1e-6)
    found = rows[1]["EnergyBased"]["new"]
    assert found["auroc"] == pytest.approx(measure(inside, outside, paired=True).auroc, abs=1e-6)
    groups = [str(2 * (i % 12) + 1) for i in range(16)]  # the places that are held out
    expected, alone = (measure(inside, outside, paired=True, groups=names) for names in (groups, None))
    assert found["auroc_low"] == pytest.approx(expected.auroc_low, abs=1e-6)
    assert found["auroc_high"] == pytest.approx(expected.auroc_high, abs=1e-6)
    assert abs(alone.auroc_low - expected.auroc_low) + abs(alone.auroc_high - expected.auroc_high) > 5e-3
    # A finished round is not run again, and the next goes on from it.
    more = settings(pictures, tmp_path / "net", **{**changes, "rounds": 2})
    told.clear()
    three = train(more, on_progress=lambda now: told.append(now.name))["rounds"]
    assert three[:2] == rows
    assert not any(name.startswith("round 1") for name in told)
    assert any(name.startswith("round 2") for name in told)
    with pytest.raises(InputError, match=r"settings\.eps"):
        train(settings(pictures, tmp_path / "net", **{**changes, "eps": 1.0}))
    (tmp_path / "net" / "rounds" / "001" / "state.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cannot go on from .*state\.pt"):
        train(more)


def test_rate_is_a_detector_of_a_bottleneck_alone(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    train(settings(pictures, tmp_path / "net", method="bottleneck", epochs=1))
    encoder = load_encoder(f"trained:{tmp_path / 'net'}", device="cpu")
    detectors, _ = make_detectors(Classifier(encoder), ["Rate"])
    x = torch.rand(5, 3, SIDE, SIDE)
    net = encoder.model
    assert isinstance(net, Bottleneck)
    with torch.no_grad():
        expected = rate(net.stats(net.body.pooled(encoder.normalise(x))))
    assert torch.allclose(detectors["Rate"].score(x).float(), expected, rtol=1e-5)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown method", {"method": "outlier_exposure"}, "did you mean 'outlier-exposure'"),
    ("no outliers", {"method": "outlier-exposure", "outliers": ()}, "missing --outliers"),
    ("rounds without a test set", {"rounds": 1}, "expected --rounds with --test"),
    ("no network", {"network": "resnet19"}, "expected network as resnet8"),
    ("no epochs", {"epochs": 0}, "expected epochs >= 1, got 0"),
    ("a rate of nothing", {"rate": 0.0}, "expected rate above 0 and below 100, got 0"),
    ("a rate beyond measure", {"rate": 1000.0}, "expected rate above 0 and below 100, got 1000"),
    ("a weight beyond measure", {"weight": 1e7}, r"expected weight >= 0 and below 1e6, got 1e\+07"),
    ("another GAN's size", {"method": "confidence", "size": 64}, "expected size 32 for confidence"),
    ("no such augmentation", {"augment": ("crops",)}, "did you mean 'crop'"),
]


@pytest.mark.parametrize(("what", "changes", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_settings_are_told(
    pictures: tuple[Path, Path, Path], tmp_path: Path, what: str, changes: dict[str, Any], message: str
) -> None:
    del what
    with pytest.raises(InputError, match=message):
        train(settings(pictures, tmp_path / "net", **changes))


def test_bad_folders_are_told(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected images of two classes or more in .*, got them in no folder"):
        train(settings(pictures, tmp_path / "a", train=str(pictures[2])))
    with pytest.raises(InputError, match=r"expected the classes of the training images in .*, got images in no folder"):
        train(settings(pictures, tmp_path / "b", test=str(pictures[2])))
    with pytest.raises(InputError, match="expected the directory of a training"):
        load_encoder(f"trained:{tmp_path}")
    train(settings(pictures, tmp_path / "net", epochs=1))
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="expected a finished training"):
        load_encoder(f"trained:{tmp_path / 'net'}")
    with pytest.raises(InputError, match=r"settings\.epochs: the run has 1, this command has 2"):
        train(settings(pictures, tmp_path / "net", epochs=2))
    checkpoint = tmp_path / "net" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["linear.bias"].fill_(torch.nan)
    torch.save({**state, "history": []}, checkpoint)
    with pytest.raises(InputError, match="the loss is no number in epoch 1 of 1, step 1"):
        train(settings(pictures, tmp_path / "net", epochs=1))
    checkpoint.write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot go on from"):
        train(settings(pictures, tmp_path / "net", epochs=1))
