"""Pages of audits, and comparisons, without a browser: what they say, and what they are made from."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup

from oodattack.auditing.store import open_audit
from oodattack.core.errors import InputError
from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.audit import run_audit
from oodattack.pipelines.train import train
from oodattack.report.audit_strongest import Strongest, strongest
from oodattack.report.compare import kind_of, read_audits, read_runs
from oodattack.report.intervals import Interval, difference
from oodattack.report.page import write_page
from oodattack.report.page.audit_cells import spread
from oodattack.report.page.audit_histogram import ScoreBins
from oodattack.report.page.audit_words import sentence, verdict
from oodattack.report.page.compare_audits import audit_table, compare_audits
from oodattack.report.page.traced import Traced
from oodattack.settings import AttackSettings, AuditSettings, TrainSettings
from tests.audit_pages import NOT_WORKING, ExpectedAudit
from tests.cli import oodattack
from tests.digits import write_photographs

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, test = digits
    out = tmp_path_factory.mktemp("page") / "audit"
    run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(train),
            test=str(test),
            start=("noise",),
            detectors=("MaxSoftmax", "KNN"),
            attacks=("latent", "direct"),
            eps=(1.0, 8.0),
            steps=3,
            limit=10,
            held_out=30,
            ood_limit=10,
            fit_limit=100,
            batch_size=10,
            out=out,
        )
    )
    return out


def changed(audit: Path, **changes: Any) -> dict[str, Any]:
    """The results of an audit with other verdicts for its first detector."""
    results: dict[str, Any] = json.loads((audit / "results.json").read_text())
    row = results["detectors"][0]
    found = row["sets"]["noise"]
    row["verdict"] = found["verdict"] = changes["verdict"]
    found["falls_at"] = changes.get("falls_at")
    results["detectors"] = [row]
    return results


def test_the_strongest_attack_is_the_lowest_score(audit: Path) -> None:
    expected, scores = ExpectedAudit(audit), open_audit(audit).read_scores()
    for number, (row, name, eps) in enumerate(expected.cells):
        made = strongest(row, scores, name, eps=eps, steps=3, rows=10)
        np.testing.assert_array_equal(made.after, expected.after(number))
        np.testing.assert_array_equal(made.before, expected.before(number))
        assert made.limit == expected.limit(number)
        found = row["sets"][name]["radii"][expected.eps.index(eps)]
        assert made.passes.mean() == pytest.approx(found["fpr95_in_positive"]["value"])
        assert made.rejected.sum() == found["rejected"]
        for place, key in enumerate(made.attack):
            reached = made.before[place] if key is None else float(scores[row["name"], key][place])
            assert reached == made.after[place]


@pytest.mark.parametrize(
    ("inside", "after"),
    [
        ([0.0, 1.0, 2.0], [0.5, 3.0]),
        ([1.0, 1.0, 1.0], [1.0, 1.0]),
        ([1e30, 1e30, 2e30], [-1e30, 1e30]),
        ([0.999999999, 1.0, 1.0], [0.9999999995, 1.0]),
        ([0.0, float("inf")], [float("-inf"), 5.0]),
        ([float("inf")] * 3, [float("inf"), float("-inf")]),
        ([0.0] * 3, [1e-300, 0.0]),
    ],
)
def test_bars_meet_at_the_threshold(inside: list[float], after: list[float]) -> None:
    """So that every bar has either images that pass or images that are rejected."""
    limit = sorted(inside)[-1] if len(inside) < 3 else sorted(inside)[1]
    made = Strongest(np.array(inside), np.array(after), np.array(after), [None] * len(after), limit)
    bins = ScoreBins.of(made)
    assert list(bins.edges) == sorted(set(bins.edges))
    assert sum(bins.counts(made.after)) == len(after)
    for score, passes in zip(after, made.passes, strict=True):
        assert bins.counts(np.array([score]))[bins.bar(score)] == 1
        if np.isfinite(limit):
            assert (bins.edges[bins.bar(score) + 1] <= limit) == passes
    assert len({bins.text(edge) for edge in bins.edges}) > len(bins.edges) / 2


def test_images_of_a_full_panel_are_spread_over_the_scores() -> None:
    scores = np.random.default_rng(0).permutation(100).astype(float)
    chosen = spread(scores, 10)
    assert scores[chosen].tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert sorted(spread(scores, 200)) == list(range(100))


@pytest.mark.parametrize(
    ("name", "heading", "words"),
    [
        ("broken", "The only detector that works is broken within L2 8", "Falls at 1 from noise"),
        ("bent", "The only detector that works is not broken within L2 8", "Weakened, not broken"),
        ("held", "The only detector that works is not broken within L2 8", "a stronger one may exist"),
        ("not attacked adaptively", "The only detector that works is not broken", "which says little"),
        ("unfinished", "The only detector that works is not broken", "Not known"),
        ("blind", "The only detector does not work on these images", "Nothing to break"),
        ("too few starts", "The only detector does not work", "different starts"),
    ],
)
def test_each_verdict_has_a_sentence(audit: Path, name: str, heading: str, words: str) -> None:
    results = changed(audit, verdict=name, falls_at=1.0 if name == "broken" else None)
    results["detectors"][0]["verdict_of"] = ["noise"]
    assert heading in verdict(results).striptags()
    assert words in sentence(Traced(results), 0).striptags()


@pytest.mark.parametrize(
    ("falls", "expected"),
    [
        ([1.0, 4.0, 8.0], "3 of 3 detectors that work are broken within L2 8; the first, D0, falls at 1 from noise"),
        ([1.0, 1.0, 8.0], "3 of 3 detectors that work are broken within L2 8; 2 of them already at 1 from noise"),
        ([4.0, 4.0, None], "2 of 3 detectors that work are broken within L2 8; all of them already at 4 from noise"),
        ([8.0, 8.0, None], "2 of 3 detectors that work are broken within L2 8"),
        ([None, None, None], "None of the 3 detectors that work is broken within L2 8"),
    ],
)
def test_one_sentence_for_several_detectors(falls: list[float | None], expected: str) -> None:
    rows = [
        {
            "name": f"D{number}",
            "verdict": "held" if eps is None else "broken",
            "sets": {"noise": {"falls_at": eps, "radii": [{"eps": 1.0}, {"eps": 4.0}, {"eps": 8.0}]}},
        }
        for number, eps in enumerate(falls)
    ]
    assert verdict({"settings": {"norm": "l2"}, "detectors": rows}).striptags() == expected


def test_pages_of_runs_need_no_detectors() -> None:
    """They would cost an attack 300 MB and several seconds; comparisons of runs do not need torch either."""
    code = "import sys, oodattack.report.page.compare_runs; sys.exit(bool({'pytorch_ood', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_forms_of_a_page(audit: Path, tmp_path: Path) -> None:
    page = write_page(audit, out=tmp_path / "page")
    assert len(list((tmp_path / "page" / "rows").iterdir())) == 2 * 2
    single = write_page(audit, out=tmp_path / "one.html", single_file=True)
    assert single.stat().st_size < 2_000_000
    for written in (page, single):
        text = written.read_text()
        assert ">MCM<" not in text
        assert text.count('class="verdict ') == 2
        assert "oodattack audit --encoder python:tests.factories:small" in text


def test_differences_of_fractions() -> None:
    """With intervals as wide as those of both if one of them is exact, and none if both are."""
    exact, wide = Interval(0.5, 0.5, 0.5), Interval(0.7, 0.6, 0.75)
    found = difference(exact, wide)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.1, 0.25))
    back = difference(wide, exact)
    assert (back.value, back.low, back.high) == pytest.approx((-0.2, -0.25, -0.1))
    both = difference(wide, wide)
    assert (both.low, both.high) == pytest.approx((-np.hypot(0.1, 0.05), np.hypot(0.1, 0.05)))


def test_runs_and_audits_are_not_mixed(audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run_attack(
        AttackSettings(
            encoder="python:tests.factories:tiny",
            images="torchvision:FakeData",
            limit=2,
            start=("noise",),
            steps=2,
            out=run,
        )
    )
    outcome = oodattack(capsys, "compare", run, audit, "--out", tmp_path / "c.html")
    assert outcome.code == 2
    assert "expected only runs or only audits to compare" in outcome.err
    with pytest.raises(InputError, match="expected 2 to 26 directories to compare, got 1"):
        kind_of([run])
    outcome = oodattack(capsys, "compare", run, run, "--out", tmp_path / "c.html")
    assert outcome.code == 0
    assert "No settings differ." in outcome.out
    assert "noise" in outcome.out
    assert (tmp_path / "c.html").exists()


def test_a_comparison_names_the_settings_that_differ(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(audit, tmp_path / "other"))
    results = json.loads((other / "results.json").read_text())
    results["settings"]["steps"] = 99
    results["absent"] = [{"name": "KNN", "reason": "<b>no"}]
    results["detectors"] = [row for row in results["detectors"] if row["name"] != "KNN"]
    (other / "results.json").write_text(json.dumps(results))
    outcome = oodattack(capsys, "compare", audit, other, "--out", tmp_path / "c.html")
    assert outcome.code == 0, outcome.err
    table = outcome.out.split("AUROC side by side")[0]
    assert "steps" in table
    assert "99" in table
    assert "seed" not in table
    text = (tmp_path / "c.html").read_text()
    same = re.findall(r'data-key="difference/B/MaxSoftmax/noise/value">([^<]+)', text)
    assert same == ["0.000"]  # the same scores
    assert "B: KNN was not audited: &lt;b&gt;no" in text


def test_detectors_that_never_worked_are_marked_and_not_counted(audit: Path, tmp_path: Path) -> None:
    cases = {  # verdict in A and in B, and the AUROC under attack in B; 0.5 in A
        "Higher": ("held", "held", 0.9),
        "Lower": ("bent", "broken", 0.1),
        "Same": ("held", "unfinished", 0.5),
        "OnlyFirst": ("held", "blind", 0.1),
        "OnlyFirstToo": ("broken", "too few starts", 0.9),
        "OnlyOther": ("too few starts", "held", 0.9),
        "Neither": ("blind", "blind", 0.1),
    }
    both = [Path(shutil.copytree(audit, tmp_path / name)) for name in ("one", "other")]
    for number, path in enumerate(both):
        results = json.loads((path / "results.json").read_text())
        template, detectors = results["detectors"][0], []
        for name, case in cases.items():
            row = json.loads(json.dumps(template | {"name": name}))
            row["sets"]["noise"]["verdict"] = case[number]
            value = case[2] if number else 0.5
            row["sets"]["noise"]["radii"][-1]["auroc"] = {"value": value, "low": value - 0.1, "high": value + 0.1}
            detectors.append(row)
        (path / "results.json").write_text(json.dumps(results | {"detectors": detectors}))
    found = read_audits(both)
    text = compare_audits(found, tmp_path / "c.html").read_text()
    counts = dict(re.findall(r'data-key="difference/B/(\w+)">([^<]+)', text))
    expected = {"compared": 7, "pairs": 3, "higher": 1, "lower": 1, "only_first": 2, "only_other": 1}
    assert counts == {name: str(value) for name, value in expected.items()}
    lead = unescape(re.sub("<[^>]*>", "", text))
    assert "the 95 % interval of the difference does not contain 0" in lead
    assert "In 2, it works only in A, and in 1, only in B" in lead

    table = audit_table(found)
    for row in table.rows:
        cells = dict(zip(table.head, (Markup("{}").format(cell) for cell in row), strict=True))
        name = str(cells["detector"])
        dead = [letter for letter, verdict in zip("AB", cases[name], strict=False) if verdict in NOT_WORKING]
        for letter in "AB":
            for column in (f"{letter}: before", f"{letter}: within 8"):
                assert cells[column].endswith("†") == (letter in dead), (name, column)
        assert ("<b>" in cells["B − A"]) == (name in ("Higher", "Lower"))
        label = f"{name} († in {', '.join(dead)}) from noise" if dead else f"{name} from noise"
        assert f">{label}</text>" in text
    assert "†: did not work before the attack." in text
    assert "†: did not work before it." in text


def test_what_is_called_before_is_explained_and_the_attacks_are_counted(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(audit, tmp_path / "other"))
    results = json.loads((other / "results.json").read_text())
    for row in results["detectors"]:
        row["sets"]["noise"]["before"]["count"] = 1234
        row["sets"]["[red]<b>"] = row["sets"]["noise"]
    (other / "results.json").write_text(json.dumps(results))
    outcome = oodattack(capsys, "compare", audit, other, other, "--out", tmp_path / "c.html")
    assert outcome.code == 0, outcome.err
    opened = open_audit(audit)
    rows = len(opened.read_attack(next(key for key, _ in opened.shards()), ["image"]))
    counts = f"from noise, {rows} in A, 1,234 in B, 1,234 in C; from [red]<b>, 1,234 in B, 1,234 in C."
    before = "of the attacked starts, before the attack; the heat map of an audit's page has the whole set"
    text = unescape(re.sub("<[^>]*>", "", (tmp_path / "c.html").read_text()))
    assert f"Attacked images: {counts}" in text
    assert f"before: AUROC {before}" in text
    assert f"Ring: {before}" in text
    printed = " ".join(outcome.out.split())
    assert f"Attacked images: {counts}" in printed
    assert f"before: AUROC {before}" in printed


def test_trainings_of_encoders_are_compared(audit: Path, digits: tuple[Path, Path], tmp_path: Path) -> None:
    outliers = str(write_photographs(tmp_path / "photographs", 4))
    trained: dict[str, Any] = {"train": str(digits[0]), "network": "resnet8", "size": 8, "epochs": 1}
    exposed: dict[str, Any] = {"method": "outlier-exposure", "outliers": (outliers,), "rate": 0.1}
    nets = [tmp_path / name for name in ("plain", "exposed, method")]  # a comma that begins no option
    train(TrainSettings(**trained, out=nets[0]))
    train(TrainSettings(**trained, **exposed, out=nets[1]))
    encoders = [f"trained:{nets[0]},layer=layer2", f"trained:{nets[1]}"]
    found: dict[str, Any] = {"images": str(digits[1]), "start": ("noise",), "limit": 2, "steps": 1}
    runs = [tmp_path / "run0", tmp_path / "run1"]
    audits = [Path(shutil.copytree(audit, tmp_path / name)) for name in ("audit0", "audit1")]
    for encoder, run, one in zip(encoders, runs, audits, strict=True):
        run_attack(AttackSettings(encoder=encoder, **found, out=run))
        for name in ("audit.json", "results.json"):
            content = json.loads((one / name).read_text())
            content["settings"]["encoder"] = encoder
            (one / name).write_text(json.dumps(content))
    (audits[1] / "results.json").unlink()  # not finished

    expected = {
        "training: method": ["plain", "outlier-exposure"],
        "training: outliers": ["–", outliers],
        "training: rate": ["–", "0.1"],
    }
    for read, paths in ((read_runs, runs), (read_audits, audits)):
        settings = dict(read(paths).settings)
        assert settings["encoder"] == encoders
        assert {name: texts for name, texts in settings.items() if name.startswith("training: ")} == expected
    record = nets[1] / "train.json"
    for content in (None, "{", "[]", '{"settings": 1}'):
        record.unlink() if content is None else record.write_text(content)
        assert dict(read_runs(runs).settings)["training: method"] == ["plain", "–"]
    (nets[0] / "train.json").unlink()
    assert not any(name.startswith("training: ") for name, _ in read_audits(audits).settings)


def test_audits_that_are_not_finished_are_listed(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("page*", "results.json")
    begun = [Path(shutil.copytree(audit, tmp_path / name, ignore=ignored)) for name in ("one", "other")]
    shards = sorted((begun[1] / "attacks").glob("*/*/*.parquet"))
    table = pq.read_table(shards[0])
    pq.write_table(table.slice(0, 4), shards[0])
    shards[0].rename(shards[0].with_name("00000-00004.parquet"))
    (begun[1] / "fits" / "KNN.pt").unlink()
    header = json.loads((begun[1] / "audit.json").read_text())
    header["settings"]["seed"] = 7
    (begun[1] / "audit.json").write_text(json.dumps(header))

    outcome = oodattack(capsys, "compare", begun[0], audit, begun[1], audit, "--out", tmp_path / "c.html")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "c.html").read_text()
    progress = re.findall(r'<data value="([^"]+)" data-key="progress/([^"]+)">', text)
    assert [(key, int(value)) for value, key in progress] == [
        *[("A/fits", 2), ("A/attacks", len(shards)), ("A/begun", 0)],
        *[("C/fits", 1), ("C/attacks", len(shards) - 1), ("C/begun", 1)],
    ]
    assert "A, C are not finished" in text
    assert set(re.findall(r'data-key="difference/(\w+)/MaxSoftmax', text)) == {"D"}  # against B
    assert f"{begun[0]} (not finished)" in " ".join(outcome.out.split())
    settings = outcome.out.split("AUROC side by side")[0]
    assert "seed" in settings
    assert "steps" not in settings  # which an audit records with its results

    for which in ([begun[0], audit], begun):
        outcome = oodattack(capsys, "compare", *which, "--out", tmp_path / "c.html")
        assert outcome.code == 0, outcome.err
        assert "There is nothing to compare yet." in outcome.out
        assert "Fewer than two of these audits are finished" in (tmp_path / "c.html").read_text()
