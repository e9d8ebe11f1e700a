"""Larger balls and more steps never help a detector, and without a ball the attack goes as far as there is."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodattack.auditing.bench import open_bench
from oodattack.auditing.measures import Judge
from oodattack.auditing.plan import Attack, plan
from oodattack.auditing.store import Audit, Scores
from oodattack.auditing.tables import audited, tabulate
from oodattack.detectors import Loader, Subject
from oodattack.pipelines.audit import run_audit
from oodattack.settings import AuditSettings
from tests.digits import write_photographs

pytestmark = [
    pytest.mark.xdist_group("audit nested"),  # they share an audit
    pytest.mark.usefixtures("few_resamples"),
]


class Brightness:
    """Bright images are out-of-distribution; the lowest score is that of a black image."""

    def __init__(self, subject: Subject) -> None:
        pass

    def fit(self, loader: Loader) -> None:
        pass

    def reads(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]

    def score(self, images: Tensor) -> Tensor:
        return self.reads(images)[:, 0]


@pytest.fixture(scope="module")
def audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("nested")
    return run_audit(
        AuditSettings(
            encoder="python:tests.factories:small",
            train=str(digits[0]),
            test=str(digits[1]),
            start=("noise",),
            ood=(str(write_photographs(folder / "photographs", 8)),),
            detectors=("MaxLogit",),
            detector=("tests.test_audit_nested:Brightness",),
            eps=(1.0, 2.0, math.inf),
            steps=5,
            budget=(2,),
            limit=8,
            held_out=40,
            ood_limit=8,
            fit_limit=100,
            batch_size=8,
            out=folder / "audit",
        )
    )


def _curves(audit: Audit) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for row in audit.read_results()["detectors"]:
        for name, found in row["sets"].items():
            assert [at["eps"] for at in found["radii"]] == [1.0, 2.0, "inf"]
            assert [at["steps"] for at in found["budgets"]] == [2, 5]
            yield f"{row['name']} from {name}, eps", [found["before"], *found["radii"]]
            yield f"{row['name']} from {name}, steps", [found["before"], *found["budgets"]]


def test_larger_balls_and_more_steps_are_never_weaker(audit: Audit) -> None:
    """By construction: what a smaller ball or budget allows, a larger one allows too."""
    curves = list(_curves(audit))
    assert len(curves) == 2 * 2 * 2
    for label, curve in curves:
        for less, more in pairwise(curve):
            assert more["auroc"]["value"] <= less["auroc"]["value"], label
            assert more["two_sided"]["value"] <= less["two_sided"]["value"], label
            assert more["fpr95_in_positive"]["value"] >= less["fpr95_in_positive"]["value"], label


def test_figures_are_those_of_the_lowest_score_of_each_image_within_ball_and_budget(audit: Audit) -> None:
    """A second implementation, from the scores and the names of the attacks."""
    scores, results = audit.read_scores(), audit.read_results()
    for row in results["detectors"]:
        name = row["name"]
        judge = Judge(scores[name, "in"])
        for starts, found in row["sets"].items():
            for at in (*found["radii"], *found["budgets"]):
                lowest = scores[name, starts][:8]
                nearest = judge.rank(lowest).sub(0.5).abs()
                for (by, key), values in scores.items():
                    if by != name or not key.startswith(f"{starts}/"):
                        continue
                    eps, steps = key.split("-")[2:4]
                    if float(eps) <= float(at["eps"]) and int(steps) <= at["steps"]:
                        lowest = torch.minimum(lowest, values)
                        nearest = torch.minimum(nearest, judge.rank(values).sub(0.5).abs())
                expected = judge.measure(lowest, starts=scores[name, starts][:8])
                assert at["auroc"]["value"] == pytest.approx(expected.auroc.value, abs=1e-12)
                assert at["fpr95_in_positive"]["value"] == pytest.approx(expected.fpr95_in_positive.value, abs=1e-12)
                rejected = at["rejected_pass"]["value"]
                rejected = math.nan if rejected is None else rejected
                assert rejected == pytest.approx(expected.rejected_pass.value, abs=1e-12, nan_ok=True)
                assert at["rejected"] == expected.rejected
                assert at["two_sided"]["value"] == pytest.approx(float(2 * nearest.mean()), abs=1e-12)


def test_without_a_ball_the_score_falls_below_all_others_or_the_report_says_so(audit: Audit) -> None:
    (row,) = (row for row in audit.read_results()["detectors"] if row["name"] == "Brightness")
    worked = {name: found for name, found in row["sets"].items() if found["clean"]["auroc"]["low"] > 0.55}
    assert "noise" in worked
    for name, found in worked.items():
        last = found["radii"][-1]["auroc"]["value"]
        flagged = any(flag.startswith(f"{name}: AUROC") and "at infinite eps" in flag for flag in row["flags"])
        assert flagged == (last > 0.05)


def test_an_aimed_attack_is_nearer_to_x_in_than_the_direct_attack_it_builds_on(audit: Audit) -> None:
    scores = audit.read_scores()
    wanted = scores["Brightness", "targets"]
    for (name, key), values in scores.items():
        if name == "Brightness" and "/aimed" in key:
            low = scores[name, key.replace("/aimed", "/direct")]
            assert ((values - wanted).abs() <= (low - wanted).abs() + 1e-9).all(), key
            assert (values >= low).all(), key


def test_a_direct_attack_that_gets_weaker_in_a_larger_ball_is_flagged(audit: Audit) -> None:
    """Nested balls hide it in the other figures. Here, the scores of two attacks are exchanged."""
    settings = AuditSettings.of({**audit.read_results()["settings"], "out": str(audit.path)})
    bench, scores = open_bench(settings), audit.read_scores()
    attacks = plan(settings, list(bench.inputs.sets), bench.detectors, list(bench.detectors))
    rows = audited(bench.detectors, dict.fromkeys(bench.detectors, "gradient of the score"), {}, attacks, {})
    small, large = (
        Attack("noise", "direct", "Brightness", eps, 5, rows[-1].detector.source) for eps in (1.0, math.inf)
    )

    def flags(of: Scores) -> list[str]:
        table = tabulate(settings, rows, of, bench.inputs, {attack.key: 0.0 for attack in attacks})
        (row,) = (row for row in table if row["name"] == "Brightness")
        return [flag for flag in row["flags"] if flag.startswith("noise: the direct attack alone gets weaker from eps")]

    assert flags(scores) == []
    one, other = (("Brightness", attack.key) for attack in (small, large))
    (flag,) = flags({**scores, one: scores[other], other: scores[one]})
    assert "from eps 1 (AUROC 0.0" in flag
