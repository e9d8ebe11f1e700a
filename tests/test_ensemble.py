"""Several detectors as one: it rejects what any of them rejects, and an attack on it lowers all of them at once."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodattack.attacks import Ball, Samples, direct, follow
from oodattack.auditing.measures import threshold
from oodattack.auditing.store import Audit
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize
from oodattack.detectors import ENSEMBLE, Detector, Ensemble, make_detectors, make_subject
from oodattack.detectors.subjects.passes import shared_passes
from oodattack.encoders import load_encoder
from oodattack.pipelines.audit import run_audit
from oodattack.report.audit_table import audit_markdown
from oodattack.settings import AuditSettings


class Channel(Detector):
    """The mean of one colour."""

    def __init__(self, index: int) -> None:
        self.index = index

    def score(self, images: Tensor) -> Tensor:
        return self.reads(images)[:, 0].detach()

    def reads(self, images: Tensor) -> Tensor:
        return images[:, self.index].mean((1, 2))[:, None]

    def judge(self, reads: Tensor) -> Tensor:
        return reads[:, 0]


COLOURS = {"red": Channel(0), "green": Channel(1), "blue": Channel(2)}


def inside() -> Tensor:
    return torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def ensemble() -> Ensemble:
    return Ensemble(COLOURS, {name: member.score(inside()) for name, member in COLOURS.items()})


def test_an_ensemble_rejects_what_any_member_rejects() -> None:
    limits = {name: threshold(member.score(inside())) for name, member in COLOURS.items()}
    images = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    accepted = torch.stack([COLOURS[name].score(images) <= limit for name, limit in limits.items()]).all(0)
    scores = ensemble().score(images)
    assert 0 < int(accepted.sum()) < len(images)
    # Between the two sides lies at most the step of one rank.
    assert scores[accepted].max() <= scores[~accepted].min() + 1 / 199
    assert torch.equal(scores, ensemble().combine({name: member.score(images) for name, member in COLOURS.items()}))


def test_its_value_is_the_maximum_and_its_slope_lowers_all_high_ranks() -> None:
    reads = torch.tensor([[0.9, 0.9, 0.1], [0.2, 0.8, 0.5]], dtype=torch.float64, requires_grad=True)
    scores = ensemble().judge(reads)
    torch.testing.assert_close(scores.detach(), torch.tensor([0.9, 0.8], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(scores.sum(), reads)
    torch.testing.assert_close(gradient.sum(1), torch.ones(2, dtype=torch.float64))
    assert gradient[0, 0] == gradient[0, 1] > 1000 * gradient[0, 2] > 0  # the two highest share the slope
    assert gradient[1, 1] > 1000 * gradient[1, 2]


def test_a_direct_attack_lowers_all_members_at_once() -> None:
    start = torch.ones(2, 3, 4, 4)
    samples = Samples(inside()[:2], start, [0, 1])
    detector = ensemble()
    followed = follow(detector, start, detector.score(inside()))
    found = direct(followed, detector, samples, Ball(math.inf, 2, 40), None)
    for name, member in COLOURS.items():
        assert (member.score(dequantize(found.images)) < member.score(inside()).min()).all(), name


def test_a_two_sided_ensemble_rejects_both_tails_of_every_member() -> None:
    scores = {name: member.score(inside()) for name, member in COLOURS.items()}
    both = Ensemble(COLOURS, scores, two_sided=True)
    images = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    central = torch.stack(
        [
            (member.score(images) >= scores[name].quantile(0.05))
            & (member.score(images) <= scores[name].quantile(0.95))
            for name, member in COLOURS.items()
        ]
    ).all(0)
    found = both.score(images)
    assert 0 < int(central.sum()) < len(images)
    assert torch.equal(found <= 0.9, central)
    # Darker and brighter than all in-distribution images: one-sided, the former has the lowest score of all.
    extremes = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    assert (both.score(extremes) > 1).all()
    assert ensemble().score(extremes)[0] < 0
    torch.testing.assert_close(both.judge(both.reads(images)), found)
    assert len({both.source, ensemble().source}) == 2


def test_a_direct_attack_on_a_two_sided_ensemble_ends_in_the_centre() -> None:
    scores = {name: member.score(inside()) for name, member in COLOURS.items()}
    both, start = Ensemble(COLOURS, scores, two_sided=True), torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    followed = follow(both, start, both.score(inside()))
    found = direct(followed, both, Samples(inside()[:2], start, [0, 1]), Ball(math.inf, 2, 40), None)
    for name, member in COLOURS.items():
        after = member.score(dequantize(found.images))
        assert ((after > scores[name].quantile(0.05)) & (after < scores[name].quantile(0.95))).all(), name


def test_views_are_computed_once_for_all_members() -> None:
    subject = make_subject(load_encoder("python:tests.factories:small"))
    view = subject.features
    images = torch.rand(2, 3, *subject.encoder.input_size, requires_grad=True)
    with shared_passes():
        assert view.flat(images) is view.flat(images)
        assert view.flat(images.detach().requires_grad_(True)) is not view.flat(images)
    assert view.flat(images) is not view.flat(images)


def test_its_gradient_is_that_of_separate_passes() -> None:
    subject = make_subject(load_encoder("python:tests.factories:small"))
    size = subject.encoder.input_size
    members, _ = make_detectors(subject, ["MaxSoftmax", "EnergyBased", "GradNorm"])
    some = torch.rand(30, 3, *size, generator=torch.Generator().manual_seed(2))
    whole = Ensemble(members, {name: member.score(some) for name, member in members.items()})
    x = some[:4].clone().requires_grad_(True)
    shared = torch.autograd.grad(whole.sample(x).sum(), x)[0]
    ranks = torch.stack([whole.ranks[name](member.sample(x)) for name, member in members.items()], dim=1)
    separate = torch.autograd.grad(whole.judge(ranks).sum(), x)[0]
    torch.testing.assert_close(shared, separate)


@pytest.fixture(scope="module")
def audit(digits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return run_audit(settings(digits, tmp_path_factory.mktemp("audit") / "jointly"))


def settings(digits: tuple[Path, Path], out: Path, **changes: Any) -> AuditSettings:
    values = {
        "encoder": "python:tests.factories:small",
        "train": str(digits[0]),
        "test": str(digits[1]),
        "start": ("noise",),
        "detectors": ("MaxSoftmax", "EnergyBased", "KNN"),
        "jointly": ("MaxSoftmax", "KNN"),
        "eps": (1.0, 4.0),
        "steps": 3,
        "limit": 6,
        "out": out,
    }
    return AuditSettings(**{**values, **changes})


def test_an_audit_counts_the_images_that_all_members_accept(audit: Audit) -> None:
    results, scores = audit.read_results(), audit.read_scores()
    found = results["jointly"]
    assert found["members"] == ["MaxSoftmax", "KNN"]
    limits = {name: threshold(scores[name, "in"]) for name in found["members"]}
    accepted = torch.stack([scores[name, "in"] <= limit for name, limit in limits.items()]).all(0)
    assert found["in_distribution"] == pytest.approx(float(accepted.double().mean()))
    for at in found["sets"]["noise"]["radii"]:
        keys = [
            key
            for key, attack in results["attacks"].items()
            if attack["eps"] <= at["eps"] and all((name, key) in scores for name in limits)
        ]
        assert any("direct-jointly" in key for key in keys)
        assert any("latent" in key for key in keys)
        passed = torch.stack(
            [torch.stack([scores[name, key] <= limit for name, limit in limits.items()]).all(0) for key in keys]
        ).any(0)
        before = torch.stack([scores[name, "noise"] <= limit for name, limit in limits.items()]).all(0)[:6]
        passed |= before
        expected = float(passed[~before].double().mean()) if not before.all() else None
        assert at["value"] == (None if expected is None else pytest.approx(expected))
    (row,) = (row for row in results["detectors"] if row["name"] == ENSEMBLE)
    assert row["reads"] == "its own"
    assert "## One image for all detectors" in audit_markdown(results)


def test_an_ensemble_needs_detectors_of_the_audit(digits: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected detectors of this audit for jointly, got ViM: it is not among"):
        run_audit(settings(digits, tmp_path / "a", jointly=("ViM",)))
    with pytest.raises(InputError, match="got MCD: the network has no dropout"):
        run_audit(settings(digits, tmp_path / "b", detectors=("KNN", "MCD"), jointly=("KNN", "MCD")))
