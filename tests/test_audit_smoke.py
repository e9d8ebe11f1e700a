"""From folders of images to a report, with the two commands that a user needs: train and audit."""

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from oodattack.auditing.measures import Measure, Share
from oodattack.auditing.verdict import verdict
from oodattack.core.metrics import mape
from oodattack.encoders import load_encoder
from tests.cli import oodattack
from tests.digits import SIDE, write_photographs


@pytest.mark.slow
def test_digits_from_folders_to_a_report(
    digits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodattack.auditing.measures.RESAMPLES", 40)  # see test_audit_measures.py
    train, test = digits
    natural = write_photographs(tmp_path / "photographs", 12)
    net, out = tmp_path / "net", tmp_path / "audit"
    done = oodattack(
        capsys,
        *("train", "--train", train, "--test", test, "--network", "resnet8", "--size", SIDE, "--epochs", 2),
        *("--augment", "none", "--out", net, "--json"),
    )
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((net / "results.json").read_text())

    done = oodattack(
        capsys,
        *("audit", "--encoder", f"trained:{net}", "--train", train, "--test", test, "--ood", natural),
        *("--eps", "8", "--limit", 5, "--steps", 5, "--budget", "2", "--held-out", 60),
        *("--detector", "tests.factories:Norm", "--witness", f"trained:{net}", "--batch-size", 5, "--out", out),
    )
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    rows = {row["name"]: row for row in results["detectors"]}
    assert results["failures"] == {}
    # All applicable detectors of pytorch-ood and the user's own; SHE needs a correctly classified image of every class.
    absent = {found["name"] for found in results["absent"]}
    assert absent - {"SHE"} == {"MCM", "WeightedEBO", "MCD", "Rate"}
    assert len(rows) + len(absent) == 38
    assert results["subject"]["test_accuracy"] is not None
    for name in (*rows, "Norm", "WeightedEBO", "results.json", "report.md", "heatmap.png", "budget.png", "index.html"):
        assert name in done.out
    assert max(map(len, done.out.split("\n\n")[0].splitlines())) <= 80
    report = (out / "report.md").read_text()
    assert all(f"| {name} |" in report for name in rows)
    for name in ("heatmap", "auroc", "pass", "histograms", "roc", "budget"):
        with Image.open(out / "figures" / f"{name}.png") as figure:
            assert figure.size[0] > 500

    scores = pq.read_table(out / "scores.parquet").to_pandas()
    assert set(scores["detector"]) == set(rows)
    assert len(scores[(scores["detector"] == "KNN") & (scores["set"] == "photographs")]) == 12
    table = {key: list(group.sort_values("row")["score"]) for key, group in scores.groupby(["detector", "set"])}
    for row in rows.values():
        _check_measures(row, {name: found for (by, name), found in table.items() if by == row["name"]})
    _check_mapes(out, results["attacks"], f"trained:{net}")
    # The attacked network given as the witness is not judged twice.
    assert list(results["outside"]["photographs/latent-features-8-5"]["encoders"]) == [f"trained:{net}"]
    _check_distances(out, 8.0)


def _check_measures(row: dict[str, Any], scores: dict[str, list[float]]) -> None:
    """Recompute the AUROCs with another library, the strongest attack on each image, and the verdict that follows."""

    def auroc(outside: Any) -> Any:
        inside = np.nan_to_num(scores["in"])
        outside = np.nan_to_num(outside)
        truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        return pytest.approx(roc_auc_score(truth, np.r_[inside, outside]), abs=1e-9)

    assert {found["kind"] for found in row["attacked"].values()} >= {"latent", "direct", "aimed"}
    for name, found in row["attacked"].items():
        assert found["auroc"]["value"] == auroc(scores[name]), (row["name"], name)
    found = row["sets"]["photographs"]
    assert found["clean"]["auroc"]["value"] == auroc(scores["photographs"]), row["name"]
    starts = scores["photographs"][:5]
    assert found["before"]["auroc"]["value"] == auroc(starts), row["name"]
    (radius,) = found["radii"]
    assert radius["auroc"]["value"] == auroc(np.min([starts, *(scores[key] for key in row["attacked"])], axis=0))
    adaptive = row["applicable"]["direct"].startswith(("gradient", "differences", "SPSA"))
    before = _measure(found["clean"]), _measure(found["before"])
    assert row["verdict"] == verdict(*before, _measure(radius), finished=True, adaptive=adaptive)


def _measure(figures: dict[str, Any]) -> Measure:
    shares = ("auroc", "two_sided", "fpr95_in_positive", "rejected_pass", "fpr95_out_positive")
    values: dict[str, Any] = {field.name: figures[field.name] for field in fields(Measure)}
    return Measure(**values | {name: Share(**values[name]) for name in shares})


def _check_mapes(out: Path, attacks: dict[str, Any], network: str) -> None:
    """Recompute the median MAPE of the attacks on z from the saved images."""
    encoder = load_encoder(network, device="cpu")

    def latents(images: Any) -> torch.Tensor:
        found: torch.Tensor = encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        return found.detach()

    z_in = latents(_images(out / "samples" / "photographs.parquet", "x_in"))
    for key in ("photographs/latent-features-8-2", "photographs/latent-features-8-5"):
        shards = sorted((out / "attacks" / key).glob("*.parquet"))
        z_out = latents(np.concatenate([_images(shard) for shard in shards]))
        assert attacks[key]["mape"] == pytest.approx(float(np.median(mape(z_out, z_in))), rel=1e-2, abs=1e-5)


def _check_distances(out: Path, eps: float) -> None:
    """Check every saved attacked image against its saved start."""
    starts = _images(out / "samples" / "photographs.parquet", "start")
    folders = sorted((out / "attacks" / "photographs").iterdir())
    assert len(folders) > 33
    for folder in folders:
        found = np.concatenate([_images(shard) for shard in sorted(folder.glob("*.parquet"))])
        distance = np.sqrt((((found - starts) / 255) ** 2).sum(axis=(1, 2, 3)))
        assert (distance <= eps * (1 + 1e-6)).all(), folder.name


def _images(file: Path, column: str = "image") -> Any:
    cells = pq.read_table(file, columns=[column])[column].to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])), dtype=np.float64) for cell in cells])
