"""What results look like at a prompt and in a notebook."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from oodattack import attack
from oodattack.auditing.store import Audit
from oodattack.core.result import MAX_ROWS
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.runs import Run
from oodattack.settings import AttackSettings, AuditSettings

HOSTILE = "<script>alert('x')</script>&\"<b>"


class Cells(HTMLParser):
    """The tags of a page, and the text of its table cells by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.text, self.in_cell = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self.in_cell = tag in ("td", "th")
        if self.in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    images = "torchvision:FakeData"
    return run_audit(
        AuditSettings(
            encoder="python:tests.factories:tiny",
            train=images,
            test=images,
            start=("noise",),
            limit=2,
            held_out=9,
            fit_limit=4,
            detectors=("MaxLogit", "MCM"),
            attacks=("latent",),
            steps=2,
            ood_limit=5,
            out=tmp_path_factory.mktemp("notebook") / "audit",
        )
    )


def test_the_result_of_an_attack() -> None:
    count = MAX_ROWS + 2
    start = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    result = attack(lambda x: x.mean((2, 3)), start, torch.full((count, 3), 0.5), eps=1.0, steps=3)
    text = repr(result)
    assert f"{count} images of 4x5" in text
    assert (
        f"median MAPE {float(result.start_mape.median()):.3g} before, {float(result.mape.median()):.3g} after" in text
    )
    assert len(text) < 200
    cells = Cells(result._repr_html_())
    assert len(cells.rows) == 1 + MAX_ROWS
    assert cells.rows[1][:4] == [
        "0",
        *(f"{float(x[0]):.4g}" for x in (result.start_mape, result.mape, result.distance)),
    ]
    assert "and 2 more" in cells.text


def test_a_result_without_mape() -> None:
    lowest = attack(lambda x: x.mean((1, 2, 3)), torch.full((1, 3, 4, 4), 0.5), None, eps=1.0, steps=2)
    assert "1 image of 4x4: no MAPE" in repr(lowest)
    assert Cells(lowest._repr_html_()).rows[1][2] == "nan"


def test_a_finished_audit(audit: Audit) -> None:
    results = audit.read_results()
    [row] = results["detectors"]
    assert repr(audit) == f"<Audit of python:tests.factories:tiny, 1 detector: 1 {row['verdict']}>"
    cells = Cells(audit._repr_html_())
    found = row["sets"]["noise"]
    after = found["radii"][-1]["auroc"]
    assert cells.rows[1] == [
        *("MaxLogit", row["verdict"], "noise", f"{found['before']['auroc']['value']:.3f}", f"{after['value']:.3f}"),
        *(f"{after['low']:.3f} to {after['high']:.3f}", "5"),
    ]
    assert results["absent"][0]["reason"] in cells.text


def test_an_audit_shows_the_set_on_which_a_detector_did_worst(audit: Audit, tmp_path: Path) -> None:
    results = audit.read_results()
    [row] = results["detectors"]
    for name, shift in (("better", 0.1), ("worse", -0.1)):
        row["sets"][name] = copy.deepcopy(row["sets"]["noise"])
        row["sets"][name]["radii"][-1]["auroc"]["value"] += shift
    row["verdict_of"] = ["better", "noise", "worse"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert Cells(Audit(tmp_path)._repr_html_()).rows[1][2] == "worse"


def test_an_unfinished_audit(tmp_path: Path) -> None:
    unfinished = Audit(tmp_path / "<b>")
    assert "unfinished" in repr(unfinished)
    assert Cells(unfinished._repr_html_()).tags == {"p"}


def test_hostile_names_in_an_audit_are_text(audit: Audit, tmp_path: Path) -> None:
    results = copy.deepcopy(audit.read_results())
    results["subject"]["encoder"] = HOSTILE
    [row] = results["detectors"]
    row["name"], row["sets"], row["verdict_of"] = HOSTILE, {HOSTILE: row["sets"]["noise"]}, [HOSTILE]
    results["absent"] = [{"name": HOSTILE, "reason": HOSTILE}]
    results["failures"] = {HOSTILE: HOSTILE}
    (tmp_path / "results.json").write_text(json.dumps(results))
    cells = Cells(Audit(tmp_path)._repr_html_())
    assert cells.tags == {"p", "table", "tr", "th", "td"}
    assert cells.rows[1][0] == cells.rows[1][2] == HOSTILE
    assert cells.text.count(HOSTILE) >= 7


def test_a_run(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "encoder": "python:torch.nn:Flatten,size=8,layer=output",
        "images": "torchvision:FakeData",
    }
    run = run_attack(AttackSettings(**values, limit=3, start=("noise",), steps=2, out=tmp_path / "run"))
    assert repr(run) == f"<Run in {run.path}: 3 of 3 samples finished>"
    facts = {name: fact for name, fact in Cells(run._repr_html_()).rows[1:]}  # noqa: C416 -- rows are lists
    assert facts["samples"] == "3 of 3 finished"
    assert facts["median MAPE"] == f"{sorted(run.read(['mape'])['mape'].to_pylist())[1]:.3g}"
    settings = {**run.header["settings"], "encoder": HOSTILE, "images": HOSTILE}
    hostile = Run(tmp_path / "other", {**run.header, "settings": settings})
    cells = Cells(hostile._repr_html_())
    assert cells.tags == {"p", "table", "tr", "th", "td"}
    assert ["encoder", HOSTILE] in cells.rows
    assert ["median MAPE", "none yet"] in cells.rows
