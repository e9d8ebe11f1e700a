"""Training: its losses, what it saves, and that an interruption changes nothing."""

import json
import pickle
import struct
from collections.abc import Iterator
from dataclasses import asdict
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
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from oodattack.attacks import Ball, Found, Samples, direct, latent
from oodattack.auditing.measures import Judge, Measure
from oodattack.auditing.store import finite
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import Classifier, make_detectors
from oodattack.encoders import load_encoder
from oodattack.engines import Chunk, OnStage, Result, Work
from oodattack.images import decode, evenly, open_images
from oodattack.networks import MEAN, STD, Bottleneck, CifarResNet, build_network
from oodattack.networks.bottleneck import rate
from oodattack.pipelines import round_attacks, round_scores, rounds
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.train import train
from oodattack.runs import summarize
from oodattack.settings import AuditSettings
from oodattack.settings.attack import AttackSettings
from oodattack.settings.saved import saved
from oodattack.settings.train import TrainSettings
from oodattack.training.data import Labelled, Outliers
from oodattack.training.losses import loss
from oodattack.training.round_store import read_rounds
from oodattack.training.session import Session
from tests.digits import SIDE, write_photographs
from tests.resuming import assert_resumes
from tests.test_engines import Backwards


@pytest.fixture(scope="module")
def pictures(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return *digits, write_photographs(tmp_path_factory.mktemp("photographs"), 12)


def settings(pictures: tuple[Path, Path, Path], out: Path, **changes: Any) -> TrainSettings:
    _, test, photographs = pictures  # the smaller set, for speed
    values: dict[str, Any] = {
        "train": str(test),
        "outliers": (str(photographs),),
        "network": "resnet8",
        "size": SIDE,
        "epochs": 1,
        "out": out,
    }
    return TrainSettings(**{**values, **changes})


@pytest.mark.parametrize("method", ["plain", "outlier-exposure", "confidence", "bottleneck"])
def test_a_stopped_training_resumes_to_the_same_weights(
    pictures: tuple[Path, Path, Path], tmp_path: Path, method: str
) -> None:
    changes: dict[str, Any] = {"method": method, "epochs": 2}
    if method == "confidence":
        changes["size"] = 32
    whole, interrupted = (settings(pictures, tmp_path / name, **changes) for name in ("whole", "interrupted"))
    assert_resumes(whole, interrupted)
    assert json.loads((whole.out / "results.json").read_text()) == json.loads(
        (interrupted.out / "results.json").read_text()
    )


def test_a_trained_network_is_an_encoder_with_class_names(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    results = train(settings(pictures, tmp_path / "net", test=str(pictures[1])))
    encoder = load_encoder(f"trained:{tmp_path / 'net'}", device="cpu")
    assert encoder.classes == tuple(f"digit{i}" for i in range(10))
    images = Labelled(open_images(pictures[1]), SIDE)
    everything = torch.stack([images[i][0] for i in range(len(images))])
    right = (encoder.classify(everything).argmax(1) == torch.tensor(images.labels)).double().mean()  # type: ignore[union-attr]
    # Up to one or two images whose two best classes differ only by rounding.
    assert float(right) == pytest.approx(results["test_accuracy"], abs=2.5 / len(images))


def test_a_training_step_descends_on_the_loss_of_its_images(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """With all images in one batch, an epoch is one step downhill, and its loss is that of the initial weights."""
    images = Labelled(open_images(pictures[1]), SIDE)
    one_step = settings(pictures, tmp_path / "net", batch_size=len(images), augment=("none",), epochs=2)
    kept: list[dict[str, Tensor]] = []

    class Recording(Session):
        def epoch(self, on_stage: OnStage) -> float:
            kept.append({name: value.detach().clone() for name, value in self.model.state_dict().items()})
            return super().epoch(on_stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oodattack.pipelines.train.Session", Recording)
        results = train(one_step)
    net = build_network("resnet8", "plain", 10).train()
    net.load_state_dict(kept[0])
    x = torch.stack([images[i][0] for i in range(len(images))])
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    expected = F.cross_entropy(net((x - mean) / std), torch.tensor(images.labels))
    assert results["loss"][0] == pytest.approx(float(expected.detach()), rel=1e-3)
    names, weights = zip(*net.named_parameters(), strict=True)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, weights)])
    step = torch.cat([(kept[1][name] - kept[0][name]).flatten() for name in names])
    assert step.norm() > 0
    assert torch.cosine_similarity(step, -gradient, dim=0) > 0.9


def test_a_labelled_table_trains_like_its_images_in_folders(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folders = open_images(pictures[1])
    rows = [{"image": (pictures[1] / name).read_bytes(), "label": Path(name).parent.name} for name in folders.names]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "digits.parquet")
    for name, source in (("folders", pictures[1]), ("table", tmp_path / "digits.parquet")):
        train(settings(pictures, tmp_path / name, train=str(source), epochs=1))
    one, other = (load_encoder(f"trained:{tmp_path / name}", device="cpu") for name in ("folders", "table"))
    assert one.classes == other.classes
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def test_a_public_data_set_is_trained_on_with_its_class_numbers(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:600], labels[:600]
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 6:22, 6:22] = np.kron(pixels.reshape(-1, 8, 8) * 15.9, np.ones((2, 2)))
    for part, chosen in (("train", slice(0, 400)), ("t10k", slice(400, None))):
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
            limit=len(labels[400:]),
            batch_size=64,
            fit_limit=100,
            detectors=("MaxLogit",),
            attacks=("latent",),
            steps=1,
            out=tmp_path / "audit",
        )
    )
    found = audit.read_results()["subject"]
    # Up to one or two images whose two best classes differ only by rounding.
    assert found["test_accuracy"] == pytest.approx(results["test_accuracy"], abs=2.5 / 200)
    public_images = Labelled(open_images("torchvision:KMNIST:train", data_root=tmp_path / "data"), 16)
    x, y = next(iter(DataLoader(Subset(public_images, evenly(400, 100)), 100)))
    right = Classifier(encoder).logits(x).argmax(1) == y
    assert found["train_accuracy"] == pytest.approx(float(right.double().mean()), abs=2.5 / 100)
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


def test_the_losses_are_those_of_the_papers() -> None:
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


def test_half_of_the_outliers_are_attacked_ones_once_some_exist(pictures: tuple[Path, Path, Path]) -> None:
    natural_ones = [open_images(pictures[2])]
    outliers = Outliers(natural_ones, SIDE)
    holding_out = Outliers(natural_ones, SIDE, hold_out=True)
    drawn = holding_out.draw(200, torch.Generator().manual_seed(0))
    natural = torch.stack([dequantize(holding_out.get(i)) for i in range(12)])
    which = torch.cdist(drawn.flatten(1), natural.flatten(1)).argmin(1).tolist()
    assert set(which) == {0, 2, 4, 6, 8, 10}  # held-out images are never trained on
    assert list(holding_out.held_out) == [1, 3, 5, 7, 9, 11]
    white = torch.full((3, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert (outliers.draw(50, generator) == 1).flatten(1).all(1).sum() == 0
    outliers.found.append(white)
    assert (outliers.draw(50, generator) == 1).flatten(1).all(1).sum() == 25
    assert torch.equal(outliers.get(len(outliers) - 1), white[0])
    with pytest.raises(IndexError):
        outliers.get(len(outliers))


class _Recorder:
    """Records which attacks the rounds run, with their samples, balls and results, and which scores they compare."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.attacks: list[tuple[float, int]] = []
        self.samples: list[Samples] = []
        self.found: list[Found] = []
        self.measured: list[tuple[Tensor, Tensor, dict[str, Any], Measure]] = []
        recorder = self

        class Recorded(Judge):
            def __init__(self, inside: Tensor, seed: int = 0) -> None:
                super().__init__(inside, seed)
                self.scores = inside

            def measure(self, outside: Tensor, **options: Any) -> Measure:
                found = super().measure(outside, **options)
                recorder.measured.append((self.scores, outside, {"seed": self.seed, **options}, found))
                return found

        patch.setattr(rounds, "STEPS", 5)
        patch.setattr(round_attacks, "latent", self.latent)
        patch.setattr(round_attacks, "direct", self.direct)
        patch.setattr(round_scores, "Judge", Recorded)

    def _record(self, samples: Samples, ball: Ball, found: Found) -> Found:
        self.attacks.append((ball.eps, ball.steps))
        self.samples.append(samples)
        self.found.append(found)
        return found

    def latent(self, features: Any, samples: Samples, ball: Ball) -> Found:
        return self._record(samples, ball, latent(features, samples, ball))

    def direct(self, followed: Any, detector: Any, samples: Samples, ball: Ball, initial: Tensor | None) -> Found:
        return self._record(samples, ball, direct(followed, detector, samples, ball, initial))


def test_rounds_attack_the_network_they_trained(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _Recorder(monkeypatch)
    reported: list[str] = []
    photographs = write_photographs(tmp_path / "photographs", 24)
    changes = {"test": str(pictures[1]), "outliers": (str(photographs),), "rounds": 1, "round_epochs": 1}
    changes |= {"round_images": 16, "eps": 3.0}
    first = settings(pictures, tmp_path / "net", **changes)
    rows = train(first)["rounds"]
    assert [row["round"] for row in rows] == [0, 1]
    kept = [torch.load(tmp_path / f"net/rounds/00{n}/state.pt", weights_only=True) for n in range(2)]
    weights = load_file(tmp_path / "net" / "rounds" / "001" / "model.safetensors")
    encoder = load_encoder(f"trained:{tmp_path / 'net' / 'rounds' / '001'}", device="cpu")
    assert all(torch.equal(weights[name], value) for name, value in encoder.model.state_dict().items())
    assert not torch.equal(weights["linear.bias"], load_file(tmp_path / "net" / "model.safetensors")["linear.bias"])

    # The attacks of a round: from the second round on, those to train on; then new, longer, larger, and on the score.
    measuring = [(3.0, 5), (3.0, 20), (6.0, 5), (3.0, 5)]
    assert seen.attacks == [*measuring, (3.0, 5), *measuring]
    outliers = Outliers([open_images(photographs)], SIDE)
    trained, held_out = ([places[i] for i in evenly(12, 16)] for places in (range(0, 24, 2), range(1, 24, 2)))
    trained, held_out = ([places[i % 12] for i in range(16)] for places in (trained, held_out))
    for number, samples in enumerate(seen.samples):
        places = trained if number == 4 else held_out
        assert torch.equal(samples.start, dequantize(torch.stack([outliers.get(i) for i in places])))
    starts, starts_held = (dequantize(torch.stack([outliers.get(i) for i in places])) for places in (trained, held_out))
    assert ((dequantize(kept[1]["found"]) - starts).flatten(1).norm(dim=1) <= 3 * (1 + 1e-4)).all()
    assert torch.equal(kept[1]["found"], seen.found[4].images)
    for row, found in zip(rows, (seen.found[:4], seen.found[5:]), strict=True):
        medians = {n: float(f.mape.nanquantile(0.5)) for n, f in zip(("new", "longer", "larger"), found, strict=False)}
        assert row["mape"] == medians

    # What a round stores of two of its attacks.
    for stored, found in zip(read_rounds(tmp_path / "net"), (seen.found[:4], seen.found[5:]), strict=True):
        table = stored.read_images().to_pandas()
        assert stored.settings == saved(first)
        for name, kept_of_it in (("new", found[0]), ("direct", found[3])):
            of_it = table[table["attack"] == name]
            assert of_it["row"].tolist() == list(range(16))
            assert of_it["start_name"].tolist() == [outliers.name(i) for i in held_out]
            assert torch.equal(torch.stack([decode(cell["bytes"]) for cell in of_it["image"]]), kept_of_it.images)
            assert torch.equal(torch.stack([decode(cell["bytes"]) for cell in of_it["start"]]), quantize(starts_held))
            measured_of_it = stored.figures["EnergyBased"][name]
            passes = of_it["score"] <= measured_of_it["threshold"]
            assert float(passes.mean()) == measured_of_it["fpr95_in_positive"]["value"]
            rejected = of_it["score_before"] > measured_of_it["threshold"]
            assert int(rejected.sum()) == measured_of_it["rejected"]

    # The comparisons of a round, with two scores.
    names = ["natural", "new", "longer", "larger", "direct"], ["natural", "old", "new", "longer", "larger", "direct"]
    compared = iter(seen.measured)
    for row, sets in zip(rows, names, strict=True):
        for score in ("MaxSoftmax", "EnergyBased"):
            measured = {name: next(compared) for name in sets}
            assert row[score] == {name: finite(asdict(found)) for name, (*_, found) in measured.items()}
            natural = measured["natural"]
            assert len(natural[1]) == 12  # each once, although attacks start from some of them twice
            assert natural[2] == {"seed": 0}
            for _, _, options, _ in list(measured.values())[1:]:
                assert options["seed"] == 0
                # Images from one start do not count as independent.
                assert options["clusters"] == [str(i) for i in held_out]
                assert torch.equal(options["starts"], natural[1][[i % 12 for i in range(16)]])
    # `measured` is of the last network, which was trained on images like those that fooled the previous one.
    test = Labelled(open_images(pictures[1]), SIDE)
    attacked = evenly(len(test), 16)
    inside = torch.stack([test[i][0] for i in range(len(test)) if i not in attacked])
    assert not torch.equal(kept[0]["fresh"], kept[1]["fresh"])
    images = {"old": dequantize(kept[0]["fresh"]), "new": dequantize(kept[1]["fresh"])}
    images["natural"] = dequantize(torch.stack([outliers.get(i) for i in held_out[:12]]))
    for name, outside in images.items():
        for scores, x in zip(measured[name][:2], (inside, outside), strict=True):
            expected = EnergyBased.score(Classifier(encoder).logits(x).detach())
            torch.testing.assert_close(scores.float(), expected.float(), rtol=1e-3, atol=1e-3)

    # A finished round is not run again, and the next one follows it.
    more = settings(pictures, tmp_path / "net", **{**changes, "rounds": 2})
    three = train(more, on_progress=lambda now: reported.append(now.name))["rounds"]
    assert three[:2] == rows
    assert not any(name.startswith("round 1") for name in reported)
    assert any(name.startswith("round 2") for name in reported)
    with pytest.raises(InputError, match=r"settings\.eps"):
        train(settings(pictures, tmp_path / "net", **{**changes, "eps": 1.0}))
    (tmp_path / "net" / "rounds" / "001" / "state.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cannot resume from .*state\.pt"):
        train(more)


def few_rounds(pictures: tuple[Path, Path, Path], out: Path, **changes: Any) -> TrainSettings:
    few: dict[str, Any] = {"test": str(pictures[1]), "rounds": 1, "round_epochs": 1, "round_images": 10, "eps": 3.0}
    return settings(pictures, out, **{**few, **changes})


def test_rounds_that_are_refused_leave_the_results_alone(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "STEPS", 1)
    train(few_rounds(pictures, tmp_path / "net"))

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "net").rglob("*") if path.is_file()}

    before = contents()
    with pytest.raises(InputError, match=r"settings\.eps: the series of rounds has 3\.0, this command has 1\.0"):
        train(few_rounds(pictures, tmp_path / "net", eps=1.0))
    assert contents() == before
    # Rounds of an earlier version have no format, and other values for the same settings.
    header = json.loads((tmp_path / "net/rounds/rounds.json").read_text())
    assert header.pop("format") == 4
    header["settings"]["eps"] = "3.0"
    (tmp_path / "net/rounds/rounds.json").write_text(json.dumps(header))
    before = contents()
    with pytest.raises(InputError, match=r"format 4 in .*, got format 1, which can be read but not resumed"):
        train(few_rounds(pictures, tmp_path / "net"))
    assert contents() == before


def test_damaged_images_of_a_round_can_be_deleted_and_made_again(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "STEPS", 1)
    results = train(few_rounds(pictures, tmp_path / "net"))
    file = tmp_path / "net" / "rounds" / "001" / "images.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot read .*images\.parquet: .*; delete it and repeat the command"):
        train(few_rounds(pictures, tmp_path / "net"))
    file.unlink()
    assert train(few_rounds(pictures, tmp_path / "net")) == results
    assert [one.figures for one in read_rounds(tmp_path / "net")] == results["rounds"]


def test_another_engine_gives_the_same_rounds(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes the chunks in reverse order, in workers that load the networks from the directory."""

    class Elsewhere(Backwards):
        def map(self, work: Work[Chunk, Result], *arguments: Any, **options: Any) -> Iterator[tuple[Chunk, Result]]:
            return super().map(pickle.loads(pickle.dumps(work)), *arguments, **options)

    monkeypatch.setattr(rounds, "STEPS", 2)
    monkeypatch.setattr(rounds, "BATCH_SIZE", 4)
    seen: list[tuple[str, int, int]] = []
    local = train(
        few_rounds(pictures, tmp_path / "local"),
        on_progress=lambda now: seen.append((now.name, now.done, now.total)),
    )
    assert [done for name, done, total in seen if name == "round 1: attacking" and total == 10] == [0, 4, 8]
    assert train(few_rounds(pictures, tmp_path / "other"), engine=Elsewhere()) == local
    for state in ("000/state.pt", "001/state.pt"):
        one, other = (torch.load(tmp_path / out / "rounds" / state, weights_only=True) for out in ("local", "other"))
        assert torch.equal(one["fresh"], other["fresh"])


def test_rounds_halve_batches_that_do_not_fit(
    pictures: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CifarResNet.forward

    def hungry(self: CifarResNet, x: Tensor) -> Tensor:
        if len(x) > 4 and not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(rounds, "STEPS", 1)
    monkeypatch.setattr(CifarResNet, "forward", hungry)
    with pytest.warns(UserWarning, match=r"not enough memory for a batch of \d+: reduced to \d+"):
        rows = train(few_rounds(pictures, tmp_path / "net", batch_size=4, round_images=8))["rounds"]
    assert [row["round"] for row in rows] == [0, 1]


def test_the_rate_detector_requires_a_bottleneck(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
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
    ("an unknown network", {"network": "resnet19"}, "expected network to be resnet8"),
    ("no epochs", {"epochs": 0}, "expected epochs >= 1, got 0"),
    ("a rate of zero", {"rate": 0.0}, "expected rate above 0 and below 100, got 0"),
    ("a rate that is too large", {"rate": 1000.0}, "expected rate above 0 and below 100, got 1000"),
    ("a weight that is too large", {"weight": 1e7}, r"expected weight >= 0 and below 1e6, got 1e\+07"),
    ("a size that the GAN does not support", {"method": "confidence", "size": 64}, "expected size 32 for confidence"),
    ("an unknown augmentation", {"augment": ("crops",)}, "did you mean 'crop'"),
]


@pytest.mark.parametrize(("what", "changes", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_settings_are_refused(
    pictures: tuple[Path, Path, Path], tmp_path: Path, what: str, changes: dict[str, Any], message: str
) -> None:
    del what
    with pytest.raises(InputError, match=message):
        train(settings(pictures, tmp_path / "net", **changes))


def test_bad_folders_are_refused(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected at least two classes in .*, got images without class folders"):
        train(settings(pictures, tmp_path / "a", train=str(pictures[2])))
    with pytest.raises(
        InputError, match=r"expected the classes of the training images in .*, got images without class folders"
    ):
        train(settings(pictures, tmp_path / "b", test=str(pictures[2])))
    with pytest.raises(InputError, match="expected a training directory"):
        load_encoder(f"trained:{tmp_path}")
    train(settings(pictures, tmp_path / "net", epochs=1))
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="expected a finished training"):
        load_encoder(f"trained:{tmp_path / 'net'}")
    with pytest.raises(InputError, match=r"settings\.epochs: the training has 1, this command has 2"):
        train(settings(pictures, tmp_path / "net", epochs=2))
    checkpoint = tmp_path / "net" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["linear.bias"].fill_(torch.nan)
    torch.save({**state, "history": []}, checkpoint)
    with pytest.raises(InputError, match="the loss became non-finite in epoch 1 of 1, step 1"):
        train(settings(pictures, tmp_path / "net", epochs=1))
    checkpoint.write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot resume from"):
        train(settings(pictures, tmp_path / "net", epochs=1))
