"""Training of flows and score networks: what is saved, held out and kept, and that an interruption changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from oodattack.cli.app import app
from oodattack.core.errors import InputError
from oodattack.encoders import load_encoder
from oodattack.images import decode, open_images
from oodattack.networks import Glow, build_image_model
from oodattack.pipelines.train import train
from oodattack.settings.train import TrainSettings
from oodattack.training.image_session import PATIENCE, ImageSession
from oodattack.training.objectives import LIKELIHOOD
from oodattack.training.setup import make_accelerator
from oodattack.training.unlabelled import Unlabelled, mutated
from tests.digits import write_photographs
from tests.resuming import assert_resumes

NETWORKS = {"likelihood": "glow-k1-l2-w8", "score": "unet-w8"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"), 40)


def settings(photographs: Path, out: Path, **changes: Any) -> TrainSettings:
    objective = changes.get("objective", "likelihood")
    values: dict[str, Any] = {
        "train": str(photographs),
        "objective": objective,
        "network": NETWORKS.get(objective, ""),
        "size": 16,
        "epochs": 3,
        "batch_size": 16,
        "device": "cpu",
        "out": out,
    }
    return TrainSettings(**{**values, **changes})


@pytest.mark.parametrize("objective", ["likelihood", "score"])
def test_a_stopped_training_resumes_to_the_same_weights(photographs: Path, tmp_path: Path, objective: str) -> None:
    changes: dict[str, Any] = {"objective": objective, "augment": ("crop", "flip")}
    whole, interrupted = (settings(photographs, tmp_path / name, **changes) for name in ("whole", "interrupted"))
    assert_resumes(whole, interrupted)
    for name in ("results.json", "samples.png"):
        assert (whole.out / name).read_bytes() == (interrupted.out / name).read_bytes()
    assert decode((whole.out / "samples.png").read_bytes()).shape[0] == 3


def test_the_best_weights_are_an_encoder_whose_z_is_the_negative_log_likelihood(
    photographs: Path, tmp_path: Path
) -> None:
    results = train(settings(photographs, tmp_path / "glow", test=str(photographs)))
    assert results["held_out"][results["best_epoch"] - 1] == min(results["held_out"])
    encoder = load_encoder(f"trained:{tmp_path / 'glow'}", device="cpu")
    model = encoder.model
    assert isinstance(model, Glow)
    images = torch.stack(list(Unlabelled(open_images(photographs), range(8), 16)))  # type: ignore[call-overload]
    torch.testing.assert_close(encoder(images).flatten(), model(images))
    # The mean over u that is measured on held-out images, with other draws of u: alike, because u averages out.
    mean = torch.stack([model.bits_per_dim(images, torch.rand_like(images)) for _ in range(8)]).mean()
    assert bool(mean.isfinite())
    weights = load_file(tmp_path / "glow" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def session(photographs: Path, out: Path, **changes: Any) -> ImageSession:
    chosen = settings(photographs, out, **changes)
    images, held_out = (Unlabelled(open_images(photographs), rows, 16) for rows in (range(30), range(30, 40)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_image_model(chosen.network, chosen.size)
    return ImageSession(chosen, model, LIKELIHOOD, images, held_out, make_accelerator("cpu"))


def test_the_average_of_weights_lags_behind_them(photographs: Path, tmp_path: Path) -> None:
    """One step from equal weights: the average has moved in the same direction, and less."""
    one = session(photographs, tmp_path, batch_size=30)
    before = [value.detach().clone() for value in one.trained.parameters()]
    now = list(one.model.parameters())
    one.epoch(lambda *_: None)  # the first update copies the weights
    torch.testing.assert_close([v.detach() for v in one.trained.parameters()], [v.detach() for v in now])
    before = [value.detach().clone() for value in now]
    one.epoch(lambda *_: None)
    moved = torch.cat([(a - b).flatten() for a, b in zip(now, before, strict=True)])
    lagged = torch.cat([(a - b).flatten() for a, b in zip(one.trained.parameters(), before, strict=True)])
    torch.testing.assert_close(lagged, (1 - 2 / 11) * moved, rtol=1e-3, atol=1e-6)


def test_a_training_stops_when_held_out_images_no_longer_improve(photographs: Path, tmp_path: Path) -> None:
    one = session(photographs, tmp_path, epochs=100)
    one.history = {"train": [3.0] * 5, "held_out": [3.0, 2.0, 2.5, 2.5, 2.5]}
    assert one.best_epoch == 2
    assert not one.is_finished
    one.history["held_out"] += [2.5] * (PATIENCE - 3)
    assert one.is_finished


def test_a_diverging_training_stops_with_a_sentence_and_keeps_its_epochs(photographs: Path, tmp_path: Path) -> None:
    one = session(photographs, tmp_path)
    with torch.no_grad():
        next(one.model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match=r"non-finite in epoch 1 of 3, step 1; .*retry with a --rate below 0.001"):
        one.epoch(lambda *_: None)
    assert one.history == {"train": [], "held_out": []}


def test_held_out_images_are_not_trained_on_and_do_not_depend_on_the_seed(photographs: Path, tmp_path: Path) -> None:
    records = []
    for seed in (0, 1):
        train(settings(photographs, tmp_path / str(seed), seed=seed, epochs=1))
        records.append(json.loads((tmp_path / str(seed) / "train.json").read_text()))
    assert records[0]["inputs"] == records[1]["inputs"]
    assert records[0]["inputs"]["train"] != records[0]["inputs"]["held_out"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_pixel_values_is_mutated(share: float) -> None:
    image = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    found: Tensor = mutated(image, share)
    changed = float((found != image).double().mean())
    assert changed == pytest.approx(share * 255 / 256, abs=0.03)  # six standard deviations of 12,288 draws
    if share == 1:
        assert set(found.flatten().tolist()) == set(range(256))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet20"}, "expected a network such as glow-k4-l3-w64 for the objective likelihood, got 'resn"),
        ({"objective": "score", "network": "glow-k1-l2-w8"}, "such as unet-w32 for the objective score"),
        ({"objective": "classification", "network": "unet-w8"}, "such as resnet20 for the objective classification"),
        ({"objective": "score", "mutate": 0.1}, "expected mutate with the objective likelihood"),
        ({"mutate": 1.0}, "expected mutate to be at least 0 and below 1, got 1"),
        ({"method": "bottleneck"}, "expected no --method for the objective likelihood"),
        ({"outliers": ("a",)}, "expected no --outliers"),
        ({"rate": 0.0}, "expected rate above 0"),
    ],
)
def test_settings_of_another_objective_are_refused(
    photographs: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    merged = {"network": NETWORKS.get(changes.get("objective", ""), "glow-k1-l2-w8"), **changes}
    with pytest.raises(InputError, match=message):
        settings(photographs, tmp_path, **merged)


def test_too_few_images_to_hold_some_out_is_a_sentence(tmp_path: Path) -> None:
    few = write_photographs(tmp_path / "few", 5)
    with pytest.raises(InputError, match=r"expected at least 10 training images, got 5 .*--test"):
        train(settings(few, tmp_path / "net"))


def test_the_command_prints_the_losses_of_the_weights_it_kept(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "glow"
    arguments = ["train", "--train", str(photographs), "--objective", "likelihood", "--network", "glow-k1-l2-w8"]
    result = CliRunner().invoke(app, [*arguments, "--size", "16", "--epochs", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "results.json").read_text())
    assert f"{found['held_out'][found['best_epoch'] - 1]:.4f} on held-out images (bits per dimension)" in result.stdout
