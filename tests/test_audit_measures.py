"""The measures against scikit-learn and direct counting, on scores that break careless code."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from oodattack.audit.measures import Measure, measure, threshold, verdict
from oodattack.core.errors import InputError


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    "apart": (normal(200, 0), normal(100, 1) + 2),
    "equal": (normal(50, 2), normal(50, 3)),
    "huge": (1e30 * normal(60, 4), 1e30 * (normal(60, 5) + 1)),
    "tiny": (1e-30 * normal(60, 6), 1e-30 * (normal(60, 7) + 1)),
    "close to one": (1 - 1e-12 * normal(60, 8).abs(), 1 + 1e-12 * normal(60, 9).abs()),
    "tied": (torch.tensor([0.0, 1, 1, 2, 2, 2] * 9), torch.tensor([1.0, 2, 2, 3] * 9)),
    "constant": (torch.zeros(20), torch.zeros(30)),
    "reversed": (normal(80, 10) + 2, normal(40, 11)),
}


@pytest.mark.parametrize("name", CASES)
def test_measures_agree_with_scikit_learn(name: str) -> None:
    inside, outside = CASES[name]
    found = measure(inside, outside)
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    scores = torch.cat([inside, outside]).double().numpy()
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found.aupr_out == pytest.approx(_aupr(truth, scores), abs=1e-9)
    assert found.aupr_in == pytest.approx(_aupr(1 - truth, -scores), abs=1e-9)
    # In-distribution is positive: it is accepted where its score is low.
    false, true, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert found.fpr95_in_positive == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-9)
    assert found.count == len(outside)
    assert found.auroc_low <= found.auroc <= found.auroc_high  # equal scores count half in the interval, too
    assert found.fpr95_low <= found.fpr95_in_positive <= found.fpr95_high


def _aupr(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(auc(recall, precision))


@pytest.mark.parametrize("name", CASES)
def test_the_false_positive_rate_is_counted_at_the_threshold(name: str) -> None:
    inside, outside = CASES[name]
    found = measure(inside, outside)
    assert found.threshold == threshold(inside)
    assert (inside <= found.threshold).double().mean() >= 0.95
    assert (inside < found.threshold).double().mean() < 0.95
    assert found.fpr95_in_positive == pytest.approx(float((outside <= found.threshold).double().mean()), abs=1e-9)


def test_measures_are_invariant_under_monotone_maps() -> None:
    inside, outside = CASES["apart"]
    plain = measure(inside, outside)
    mapped = measure((3 * inside).exp(), (3 * outside).exp())
    for name in ("auroc", "auroc_low", "auroc_high", "fpr95_in_positive", "aupr_in", "aupr_out"):
        assert getattr(plain, name) == pytest.approx(getattr(mapped, name), abs=1e-12), name


def test_infinite_scores_rank_highest() -> None:
    found = measure(torch.tensor([0.0, 1.0]), torch.tensor([torch.inf, torch.inf, 0.5]))
    assert found.auroc == pytest.approx((2 + 2 + 1) / 6)


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_agrees_with_resampling_the_images(paired: bool) -> None:
    inside, outside = normal(60, 20), normal(60, 20) + 0.4 + 0.3 * normal(60, 21)
    rng = np.random.default_rng(7)
    values = []
    for _ in range(2000):
        i = rng.integers(60, size=60)
        j = i if paired else rng.integers(60, size=60)
        higher = outside[j][:, None] > inside[i][None]
        own = torch.tensor((j[:, None] == i[None]).tolist())
        # An image is compared with its own attacked image only within the same draw.
        keep = ~own | torch.eye(60, dtype=torch.bool) if paired else torch.ones_like(higher)
        values.append(float(higher[keep].double().mean()))
    found = measure(inside, outside, paired=paired)
    assert found.auroc_low == pytest.approx(np.quantile(values, 0.025), abs=0.02)
    assert found.auroc_high == pytest.approx(np.quantile(values, 0.975), abs=0.02)
    assert found.auroc_low < found.auroc < found.auroc_high


def test_correlated_pairs_have_a_narrow_interval() -> None:
    inside = normal(100, 30)
    outside = inside + 1e-6
    paired, unpaired = (measure(inside, outside, paired=p) for p in (True, False))
    assert paired.auroc_high - paired.auroc_low < 0.2 * (unpaired.auroc_high - unpaired.auroc_low)
    # Resampling does not bias the AUROC of an attack that always ends slightly above x_in.
    assert paired.auroc_low <= paired.auroc <= paired.auroc_high


def test_images_of_one_start_are_not_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """If scores differ more between starts than between x_in, the number of starts determines the interval."""
    monkeypatch.setattr("oodattack.audit.measures.RESAMPLES", 200)
    rng = torch.Generator().manual_seed(5)
    covered = []
    for seed in range(40):
        effect = torch.randn(10, generator=rng, dtype=torch.float64)
        inside = torch.randn(200, generator=rng, dtype=torch.float64) / 4
        outside = torch.randn(200, generator=rng, dtype=torch.float64) / 4 + effect.repeat(20)
        groups = [f"start {i % 10}" for i in range(200)]
        wide = measure(inside, outside, paired=True, groups=groups, seed=seed)
        narrow = measure(inside, outside, paired=True, seed=seed)
        assert wide.auroc_high - wide.auroc_low > 2 * (narrow.auroc_high - narrow.auroc_low)
        covered.append(wide.auroc_low <= 0.5 <= wide.auroc_high)
    assert sum(covered) >= 30
    # Fewer than ten starts are too few for a bootstrap, which then resamples the pairs.
    few = [f"start {i % 2}" for i in range(200)]
    assert measure(inside, outside, paired=True, groups=few, seed=1) == measure(inside, outside, paired=True, seed=1)


def test_the_interval_of_fpr95_resamples_the_threshold_too() -> None:
    inside, outside = normal(100, 40), normal(400, 41) + 1.6
    found = measure(inside, outside)
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(1500):
        drawn = inside[rng.integers(100, size=100)]
        shares.append(float((outside[rng.integers(400, size=400)] <= threshold(drawn)).double().mean()))
    assert found.fpr95_low == pytest.approx(np.quantile(shares, 0.025), abs=0.03)
    assert found.fpr95_high == pytest.approx(np.quantile(shares, 0.975), abs=0.03)


@pytest.mark.parametrize(
    ("inside", "outside", "paired", "message"),
    [
        (torch.zeros(0), torch.zeros(3), False, "expected in-distribution and OOD scores, got 0 and 3"),
        (torch.zeros(3), torch.zeros(0), False, "got 3 and 0 of them"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(3), False, "got NaN"),
        (torch.zeros(3), torch.zeros(2), True, "expected as many OOD as in-distribution scores"),
    ],
)
def test_bad_scores_are_rejected(inside: Tensor, outside: Tensor, paired: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(inside, outside, paired=paired)


def _measure(auroc: float, low: float, high: float) -> Measure:
    return Measure(auroc, low, high, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 100)


@pytest.mark.parametrize(
    ("clean", "strongest", "expected"),
    [
        ((0.9, 0.85, 0.95), (0.5, 0.45, 0.55), "broken"),
        ((0.9, 0.85, 0.95), (0.5, 0.45, 0.551), "bent"),  # the interval is included
        ((0.9, 0.85, 0.95), (0.82, 0.8, 0.84), "held"),
        ((0.9, 0.85, 0.95), (0.80, 0.7, 0.84), "bent"),  # below 0.81
        ((0.5, 0.45, 0.55), (0.1, 0.05, 0.2), "blind"),
    ],
)
def test_verdicts(clean: tuple[float, float, float], strongest: tuple[float, float, float], expected: str) -> None:
    assert verdict(_measure(*clean), _measure(*strongest)) == expected
