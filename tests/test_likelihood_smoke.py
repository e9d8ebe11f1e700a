"""Flows and a score network trained in seconds, and an audit of the detectors built on them, end to end."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.likelihood.judges import JUDGES

from oodattack.auditing.models import open_models
from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.encoders import load_encoder
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.train import train
from oodattack.report.page import write_page
from oodattack.settings import AuditSettings
from oodattack.settings.train import TrainSettings
from tests.digits import SIDE, write_photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"), 60)


@pytest.fixture(scope="module")
def models(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Trainings by name: two flows, a background model and a score network."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    flow: dict[str, Any] = {"objective": "likelihood", "network": "glow-k2-l2-w16", "epochs": 3}
    trainings = {
        "flow": flow,
        "other": {**flow, "seed": 1},
        "background": {**flow, "mutate": 0.2},
        "score": {"objective": "score", "network": "unet-w8", "epochs": 2},
    }
    for name, changes in trainings.items():
        train(
            TrainSettings(train=str(photographs), size=SIDE, batch_size=16, device="cpu", out=folder / name, **changes)
        )
        found[name] = f"trained:{folder / name}"
    return found


@pytest.fixture(scope="module")
def audit(
    photographs: Path, models: dict[str, str], digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Audit:
    return run_audit(
        AuditSettings(
            encoder=models["flow"],
            model=(models["other"], models["background"], models["score"]),
            train=str(photographs),
            test=str(photographs),
            ood=(str(digits[1]),),
            start=("noise",),
            detectors=JUDGES,
            limit=3,
            held_out=20,
            ood_limit=6,
            steps=4,
            batch_size=3,
            device="cpu",
            out=tmp_path_factory.mktemp("audit"),
        )
    )


def test_every_judge_is_fitted_and_attacked(audit: Audit) -> None:
    results = audit.read_results()
    assert {row["name"] for row in results["detectors"]} == set(JUDGES)
    assert results["absent"] == []
    assert results["failures"] == {}
    informed = {attack["target"] for attack in results["attacks"].values() if attack["kind"] == "informed"}
    assert informed == {"likelihoods", "score norms", "one-step reconstructions"}


def test_their_audit_has_a_page_and_resumes(audit: Audit, photographs: Path, models: dict[str, str]) -> None:
    text = write_page(audit.path).read_text()
    for name in JUDGES:
        assert name in text
    settings = AuditSettings.of({**audit.read_results()["settings"], "out": str(audit.path)})
    before = audit.read_results()
    assert run_audit(settings).read_results() == before


def test_models_are_told_apart_by_how_they_were_trained(models: dict[str, str], photographs: Path) -> None:
    encoder = load_encoder(models["flow"], device="cpu")
    found, digests = open_models([models["score"], models["background"], models["other"]], encoder)
    assert len(found.flows) == 2
    assert found.flows[0] is encoder.model
    assert found.background is not None
    assert found.score_network is not None
    assert len(set(digests)) == 3
    with pytest.raises(InputError, match="expected one background model, got a second one"):
        open_models([models["background"]] * 2, encoder)
    with pytest.raises(InputError, match="expected one score network, got a second one"):
        open_models([models["score"]] * 2, encoder)
    with pytest.raises(InputError, match="expected a model as trained:DIR, saved by `oodattack train`, got 'embedded'"):
        open_models(["embedded"], encoder)
