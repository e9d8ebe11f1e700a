"""From images in folders to a report, by the two commands that a person gives: train, audit."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli import oodattack
from tests.digits import SIDE, write_digits, write_photographs


@pytest.mark.slow
def test_digits_from_folders_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = write_digits(tmp_path / "digits")
    natural = write_photographs(tmp_path / "photographs", 30)
    net, out = tmp_path / "net", tmp_path / "audit"
    told = oodattack(
        capsys,
        *("train", "--train", train, "--test", test, "--network", "resnet8", "--size", SIDE, "--epochs", 4),
        *("--augment", "none", "--out", net, "--json"),
    )
    assert told.code == 0, told.err
    assert json.loads(told.out)["test_accuracy"] > 0.9

    told = oodattack(
        capsys,
        *("audit", "--encoder", f"trained:{net}", "--train", train, "--test", test, "--ood", natural),
        *("--start", natural, "--start", "noise", "--eps", "8", "--limit", 10, "--steps", 40, "--budget", "5"),
        *("--detector", "tests.factories:Norm", "--witness", f"trained:{net}", "--batch-size", 5, "--out", out),
    )
    assert told.code == 0, told.err
    results = json.loads((out / "results.json").read_text())
    rows = {row["name"]: row for row in results["detectors"]}
    assert len(rows) == 33  # all of pytorch-ood's that apply, and one's own
    assert results["failures"] == {}
    assert {absent["name"] for absent in results["absent"]} == {"MCM", "WeightedEBO", "MCD", "Rate"}
    assert results["classifier"]["test_accuracy"] > 0.8
    for name in (*rows, "broken", "Norm", "WeightedEBO", "results.json", "report.md", "heatmap.png", "budget.png"):
        assert name in told.out
    assert max(map(len, told.out.split("\n\n")[0].splitlines())) <= 80
    report = (out / "report.md").read_text()
    assert all(f"| {name} |" in report for name in rows)
    for name in ("heatmap", "histograms", "roc", "budget"):
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert picture.size[0] > 500

    # A detector that told every start tells none of what an attack made of them.
    found = rows["Mahalanobis"]
    assert found["clean"]["starts"]["auroc_low"] > 0.9
    assert found["strongest"]["auroc"] < 0.65
    assert found["verdict"] in ("broken", "bent")
    assert sum(row["verdict"] == "broken" for row in rows.values()) >= 10
    mape = {steps: results["attacks"][f"latent-features-8-{steps}"]["mape"] for steps in (5, 40)}
    assert mape[40] < mape[5]
    # An attack on the score itself leaves no detector better off than the start was.
    for row in rows.values():
        direct = next(found for found in row["attacked"].values() if found["kind"] == "direct")
        assert direct["auroc"] <= row["clean"]["starts"]["auroc"] + 1e-9, row["name"]
        assert row["strongest"]["auroc"] <= direct["auroc"]
    # A witness that is the attacked network itself sees what it sees.
    judged = list(results["outside"]["latent-features-8-40"]["encoders"].values())
    assert len(judged) == 1
    assert judged[0]["nearer_start"] < 0.5 < judged[0]["flagged_start"]

    _inside_the_ball(out, 8.0)
    scores = pq.read_table(out / "scores.parquet").to_pandas()
    assert set(scores["detector"]) == set(rows)
    assert len(scores[(scores["detector"] == "KNN") & (scores["set"] == "photographs")]) == 30


def _inside_the_ball(out: Path, eps: float) -> None:
    """Every attacked image that was kept, against the start that is kept beside it."""
    starts = _images(out / "samples.parquet", "start")
    folders = sorted((out / "attacks").iterdir())
    assert len(folders) > 33
    for folder in folders:
        found = np.concatenate([_images(shard) for shard in sorted(folder.glob("*.parquet"))])
        distance = np.sqrt((((found - starts) / 255) ** 2).sum(axis=(1, 2, 3)))
        assert (distance <= eps * (1 + 1e-6)).all(), folder.name


def _images(file: Path, column: str = "image") -> Any:
    cells = pq.read_table(file, columns=[column])[column].to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])), dtype=np.float64) for cell in cells])
