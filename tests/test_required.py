"""Requirements of continuous integration: parsed before the audit, judged after it, and never passed silently."""

import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from oodattack.auditing.required import Outcome, judge_requirements
from oodattack.core.errors import InputError
from oodattack.pipelines.audit import run_audit
from oodattack.report.junit import write_junit
from oodattack.settings import AuditSettings
from oodattack.settings.requirement import parse_requirement
from tests.cli import oodattack
from tests.digits import write_photographs

pytestmark = pytest.mark.usefixtures("few_resamples")

Results = dict[str, Any]
DETECTORS = ("MaxSoftmax", "KNN", "MCM")  # MCM applies to no image classifier
EPS = "2/255"


@pytest.fixture(scope="module")
def values(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("required")
    train, test = digits
    return {
        "encoder": "python:tests.factories:small",
        "train": train,
        "test": test,
        "start": ("noise",),
        "ood": (write_photographs(folder / "photographs", 6),),
        "detectors": DETECTORS,
        "attacks": ("latent", "direct"),
        "norm": "linf",
        "eps": (EPS,),
        "steps": 2,
        "limit": 6,
        "held_out": 30,
        "ood_limit": 6,
        "fit_limit": 100,
        "out": folder / "audit",
    }


@pytest.fixture(scope="module")
def results(values: dict[str, Any]) -> Results:
    return run_audit(AuditSettings.of(values)).read_results()


def judged(results: Results, *require: str, **changes: Any) -> dict[tuple[str, str], Outcome]:
    """The outcomes of requirements, by detector and set."""
    settings = {**results["settings"], "require": list(require), **changes}
    return {(o.detector, o.starts): o for o in judge_requirements({**results, "settings": settings})}


def at(results: Results, detector: str, starts: str) -> dict[str, Any]:
    """The figures at the only eps; they can be changed."""
    found: dict[str, Any]
    [found] = next(row for row in results["detectors"] if row["name"] == detector)["sets"][starts]["radii"]
    return found


def conclusive(results: Results) -> Results:
    """The results with a verdict that lets the figures count, whatever it was, and the interval 0.5 to 0.7."""
    changed = copy.deepcopy(results)
    for row in changed["detectors"]:
        for starts in row["sets"]:
            share = {"value": 0.6, "low": 0.5, "high": 0.7}
            at(changed, row["name"], starts).update(verdict="bent", auroc=share, rejected_pass=share)
    return changed


@pytest.mark.parametrize(
    ("requirement", "status"),
    [
        ("auroc>=0.5", "met"),
        ("auroc>=0.51", "failed"),  # the value alone would do
        ("pass<=0.7", "met"),
        ("pass<=0.69", "failed"),
    ],
)
def test_the_unfavourable_end_of_the_interval_counts(results: Results, requirement: str, status: str) -> None:
    found = judged(conclusive(results), f"{requirement}@linf:{EPS}")
    assert {key: found[key].status for key in found if key[0] != "MCM"} == {
        (detector, starts): status for detector in ("MaxSoftmax", "KNN") for starts in ("noise", "photographs")
    }
    assert "0.600 (95 %: 0.500 to 0.700)" in found["KNN", "noise"].text


def test_a_requirement_may_name_a_detector_and_a_set(results: Results) -> None:
    assert list(judged(results, f"KNN:auroc[photographs]>=0@linf:{EPS}")) == [("KNN", "photographs")]
    assert {starts for _, starts in judged(results, f"auroc[noise]>=0@linf:{EPS}")} == {"noise"}
    assert {name for name, _ in judged(results, f"KNN:auroc>=0@linf:{EPS}")} == {"KNN"}


@pytest.mark.parametrize("verdict", ["blind", "unfinished", "not attacked adaptively", "too few starts"])
@pytest.mark.parametrize("requirement", ["auroc>=0", "pass<=1"])
def test_figures_that_say_nothing_about_attacks_fail(results: Results, verdict: str, requirement: str) -> None:
    changed = conclusive(results)
    assert judged(changed, f"{requirement}@linf:{EPS}")["KNN", "noise"].status == "met"
    at(changed, "KNN", "noise")["verdict"] = verdict
    found = judged(changed, f"{requirement}@linf:{EPS}")["KNN", "noise"]
    assert found.status == "failed"
    assert verdict in found.text


def test_attacks_that_failed_leave_a_requirement_unmet(results: Results) -> None:
    """A detector may be broken already, and its figures would be lower if all attacks had run."""
    changed = conclusive(results)
    at(changed, "KNN", "noise").update(verdict="broken", finished=False)
    outcomes = judged(changed, f"auroc>=0.1@linf:{EPS}")
    assert outcomes["KNN", "noise"].status == "failed"
    assert "an attack failed" in outcomes["KNN", "noise"].text
    assert outcomes["KNN", "photographs"].status == "met"


def test_no_pass_rate_is_a_failure(results: Results) -> None:
    changed = conclusive(results)
    at(changed, "KNN", "noise")["rejected_pass"] = {"value": None, "low": None, "high": None}
    assert judged(changed, f"pass<=1@linf:{EPS}")["KNN", "noise"].status == "failed"


def test_detectors_left_out_are_skipped_only_if_nobody_named_them(results: Results) -> None:
    [absent] = results["absent"]
    every = judged(results, f"auroc>=0@linf:{EPS}", detectors=["all"])["MCM", "noise"]
    assert every.status == "skipped"
    assert absent["reason"] in every.text
    assert judged(results, f"auroc>=0@linf:{EPS}")["MCM", "noise"].status == "failed"
    assert judged(results, f"MCM:auroc>=0@linf:{EPS}", detectors=["all"])["MCM", "noise"].status == "failed"


def test_the_command_fails_with_its_own_code_and_writes_junit(
    values: dict[str, Any], results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The audit is finished already."""
    options = [
        part for name in ("encoder", "train", "test", "norm", "steps", "limit", "out") for part in (name, values[name])
    ]
    options += [
        "start",
        "noise",
        "ood",
        values["ood"][0],
        "attacks",
        "latent,direct",
        "eps",
        EPS,
        "detectors",
        "KNN,MCM",
    ]
    options += ["held-out", 30, "ood-limit", 6, "fit-limit", 100]
    command = ["audit", *(f"--{part}" if place % 2 == 0 else part for place, part in enumerate(options))]
    junit = tmp_path / "reports" / "junit.xml"
    wanted = ("--require", f"KNN:auroc>=0@linf:{EPS}", "--require", f"KNN:auroc>=1@linf:{EPS}", "--junit", junit)
    done = oodattack(capsys, *command, *wanted, "--quiet")
    assert done.code == 4, done.err
    assert done.out == ""
    cases = ET.parse(junit).getroot().findall("testsuite/testcase")
    assert len(cases) == 2 * 2
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert {f"KNN:auroc>=1@linf:{EPS} from {starts}" for starts in ("noise", "photographs")} <= set(failed)
    for name in failed:
        requirement, _, starts = str(name).partition(" from ")
        assert f"failed    {requirement}  KNN from {starts}: " in done.err
    none = oodattack(capsys, *command, "--junit", junit)
    assert none.code == 2
    assert "expected --require with --junit" in none.err


def test_junit_escapes_and_counts(tmp_path: Path) -> None:
    requirement = parse_requirement("auroc>=0.7@l2:5")
    hostile = "<script>\"&'\x00\x1b]]>\ud800\U0001f600"
    outcomes = [Outcome(requirement, "KNN", hostile, status, hostile) for status in ("met", "failed", "skipped")]
    write_junit(tmp_path / "junit.xml", outcomes)
    [suite] = ET.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    shown = "<script>\"&'??]]>?\U0001f600"
    assert [case.get("name") for case in suite] == [f"auroc>=0.7@l2:5 from {shown}"] * 3
    met, failed, skipped = (case[0] for case in suite)
    assert (met.tag, met.text) == ("system-out", shown)
    assert (failed.tag, failed.get("message")) == ("failure", shown)
    assert (skipped.tag, skipped.get("message")) == ("skipped", shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auroc>=0.7", "expected a requirement as"),
        ("auroc>0.7@linf:2/255", "expected auroc>=NUMBER"),
        ("auroc<=0.7@linf:2/255", "expected auroc>=NUMBER"),
        ("pass>=0.2@linf:2/255", "expected pass<=NUMBER"),
        ("auroq>=0.7@linf:2/255", "did you mean 'auroc'"),
        ("auroc>=70@linf:2/255", "expected a bound from 0 to 1, got 70"),
        ("auroc>=seven@linf:2/255", "expected the bound of a requirement to be a number"),
        ("auroc>=0.7@lin:2/255", "did you mean 'linf'"),
        ("auroc>=0.7@linf:two", "expected eps of a requirement to be a number"),
        ("auroc>=0.7@l2:2/255", "in the norm of the audit, linf, got l2"),
        ("auroc>=0.7@linf:4/255", "at an eps of the audit (0.00784314), got 0.0156863; add it to --eps"),
        ("KNM:auroc>=0.7@linf:2/255", "name a detector of the audit, got 'KNM'; did you mean 'KNN'"),
        ("auroc[noises]>=0.7@linf:2/255", "name a set of starts of the audit, got 'noises'; did you mean 'noise'"),
        ("jointly:auroc>=0.7@linf:2/255", "name a detector of the audit, got 'jointly'"),
    ],
)
def test_what_an_audit_cannot_judge_is_refused_before_it_begins(
    values: dict[str, Any], tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        run_audit(AuditSettings.of(values, {"require": [text], "out": tmp_path / "audit"}))
    assert message in str(raised.value)
    assert not (tmp_path / "audit").exists()
