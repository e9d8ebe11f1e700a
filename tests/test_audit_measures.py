"""The measures against scikit-learn, direct counting and plain resampling, on scores that break careless code."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from scipy.stats import t as student
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from oodattack.auditing import measures
from oodattack.auditing.measures import MIN_CLUSTERS, Judge, Measure, Share, threshold
from oodattack.auditing.verdict import MIN_REJECTED, VERDICTS, verdict, worst
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
    found = Judge(inside).measure(outside)
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    scores = torch.cat([inside, outside]).double().numpy()
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert found.aupr_out == pytest.approx(_aupr(truth, scores), abs=1e-9)
    assert found.aupr_in == pytest.approx(_aupr(1 - truth, -scores), abs=1e-9)
    # In-distribution is positive: it is accepted where its score is low.
    false, true, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert found.fpr95_in_positive.value == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-9)
    # OOD is positive: it is flagged where its score is high.
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.fpr95_out_positive.value == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-9)
    assert found.count == found.clusters == len(outside)
    for share in (found.auroc, found.two_sided, found.fpr95_in_positive, found.fpr95_out_positive):
        assert 0 <= share.low <= share.value <= share.high <= 1


def _aupr(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(auc(recall, precision))


@pytest.mark.parametrize("name", CASES)
def test_ranks_are_shares_of_lower_scores(name: str) -> None:
    inside, outside = CASES[name]
    lower = (inside[None] < outside[:, None]).double().mean(1)
    equal = (inside[None] == outside[:, None]).double().mean(1)
    torch.testing.assert_close(Judge(inside).rank(outside), lower + equal / 2, rtol=0, atol=1e-12)


def test_two_sided_is_the_auroc_of_the_distance_from_the_median() -> None:
    """The continuous limit: with many in-distribution scores, their own distances are uniform."""
    inside = normal(4001, 12)
    for outside in (normal(300, 13) + 2, normal(300, 14) / 5, normal(300, 15) - 2, normal(300, 16)):
        ranks = [Judge(inside).rank(scores) for scores in (inside, outside)]
        truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        expected = roc_auc_score(truth, (torch.cat(ranks) - 0.5).abs().numpy())
        found = Judge(inside).measure(outside)
        assert found.two_sided.value == pytest.approx(expected, abs=1e-3)
    # Scores below all others have AUROC 0, but look as suspicious as scores above all others.
    low = Judge(inside).measure(inside.min() - torch.ones(9))
    assert (low.auroc.value, low.two_sided.value) == (0, 1)


@pytest.mark.parametrize("name", CASES)
def test_the_false_positive_rate_is_counted_at_the_threshold(name: str) -> None:
    inside, outside = CASES[name]
    found = Judge(inside).measure(outside)
    assert found.threshold == threshold(inside)
    assert (inside <= found.threshold).double().mean() >= 0.95
    assert (inside < found.threshold).double().mean() < 0.95
    expected = float((outside <= found.threshold).double().mean())
    assert found.fpr95_in_positive.value == pytest.approx(expected, abs=1e-9)


def test_only_images_whose_starts_were_rejected_count_among_the_rejected() -> None:
    inside, starts = normal(100, 17), normal(80, 18) + 1.5
    outside = starts - normal(80, 19).abs()
    found = Judge(inside).measure(outside, starts=starts)
    limit = threshold(inside)
    rejected = [place for place in range(80) if starts[place] > limit]
    passed = [place for place in rejected if outside[place] <= limit]
    assert 0 < len(passed) < len(rejected) < 80
    assert found.rejected == len(rejected)
    assert found.rejected_pass.value == pytest.approx(len(passed) / len(rejected), abs=1e-12)
    assert found.rejected_pass.low < found.rejected_pass.value < found.rejected_pass.high
    # Without an attack, none of those that were rejected pass; if none was rejected, there is no share.
    assert Judge(inside).measure(starts).rejected_pass.value == 0
    none = Judge(inside).measure(inside.min() - torch.ones(9))
    assert none.rejected == 0
    assert all(map(math.isnan, (none.rejected_pass.value, none.rejected_pass.low, none.rejected_pass.high)))


def test_measures_are_invariant_under_monotone_maps() -> None:
    inside, outside = CASES["apart"]
    plain = Judge(inside).measure(outside)
    mapped = Judge((3 * inside).exp()).measure((3 * outside).exp())
    assert replace(mapped, threshold=plain.threshold) == plain


def test_infinite_scores_rank_highest() -> None:
    found = Judge(torch.tensor([0.0, 1.0])).measure(torch.tensor([torch.inf, torch.inf, 0.5]))
    assert found.auroc.value == pytest.approx((2 + 2 + 1) / 6)


def _ends(values: list[float], value: float, clusters: int) -> tuple[float, float]:
    """The interval of resampled values, widened in closed form."""
    widened = student.ppf(0.975, clusters - 1) / 1.96 * math.sqrt(clusters / (clusters - 1))
    low, high = np.quantile(values, [0.025, 0.975])
    return value + widened * (low - value), value + widened * (high - value)


def test_intervals_agree_with_resampling_images_and_starts_one_by_one() -> None:
    """All images of one start are drawn together, and the threshold is that of the drawn images."""
    inside, starts = normal(60, 20), normal(60, 21) + 2.0
    names = [f"start {place % 20}" for place in range(60)]
    starts = starts[[place % 20 for place in range(60)]]
    outside = starts - 0.6 - 0.5 * normal(60, 22)
    rng = np.random.default_rng(7)
    measures = ("auroc", "two_sided", "fpr95_in_positive", "rejected_pass", "fpr95_out_positive")
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(1500):
        some = inside[rng.integers(60, size=60)]
        rows = [place for name in rng.integers(20, size=20) for place in range(60) if place % 20 == name]
        ranks = (some[None] < outside[rows][:, None]).double().mean(1)
        passes, rejected = outside[rows] <= threshold(some), starts[rows] > threshold(some)
        drawn["auroc"].append(float(ranks.mean()))
        drawn["two_sided"].append(float((2 * ranks - 1).abs().mean()))
        drawn["fpr95_in_positive"].append(float(passes.double().mean()))
        drawn["rejected_pass"].append(float(passes[rejected].double().mean()))
        flagging = outside[rows].sort(descending=True).values[56]  # 57 of 60 are 95 %
        drawn["fpr95_out_positive"].append(float((some >= flagging).double().mean()))
    found = Judge(inside).measure(outside, starts=starts, clusters=names)
    assert found.clusters == 20
    rejected_starts = int((starts[:20] > found.threshold).sum())
    for name, values in drawn.items():
        share: Share = getattr(found, name)
        clusters = rejected_starts if name == "rejected_pass" else 20
        low, high = _ends([v for v in values if not math.isnan(v)], share.value, clusters)
        assert share.low == pytest.approx(max(low, 0), abs=0.04), name
        assert share.high == pytest.approx(min(high, 1), abs=0.04), name


def test_images_of_one_start_are_not_independent() -> None:
    """Repeating every image twenty times adds nothing that is known."""
    inside, outside = normal(200, 23) / 4, normal(10, 24)
    names = [str(place) for place in range(10)]
    once = Judge(inside).measure(outside, clusters=names)
    repeated = Judge(inside).measure(outside.repeat(20), clusters=names * 20)
    unaware = Judge(inside).measure(outside.repeat(20))
    for field in ("auroc", "two_sided", "fpr95_in_positive"):
        ends = [(getattr(found, field).low, getattr(found, field).high) for found in (once, repeated)]
        assert ends[0] == pytest.approx(ends[1], abs=1e-9)
    assert (once.clusters, repeated.clusters, unaware.clusters) == (10, 10, 200)
    assert unaware.auroc.high - unaware.auroc.low < 0.5 * (once.auroc.high - once.auroc.low)


@pytest.mark.parametrize("clusters", [MIN_CLUSTERS, 20, 1000])
def test_intervals_of_few_clusters_are_widened_by_students_t(clusters: int) -> None:
    drawn = np.random.default_rng(0).uniform(0.05, 0.8, 4000)  # wider than what a sample of this size may miss
    found = measures._share(0.5, drawn, clusters)
    low, high = (min(max(end, 0.0), 1.0) for end in _ends(list(drawn), 0.5, clusters))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_fewer_clusters_say_nothing() -> None:
    few = [str(place % (MIN_CLUSTERS - 1)) for place in range(100)]
    found = Judge(normal(100, 25)).measure(normal(100, 26) + 1, clusters=few)
    for share in (found.auroc, found.two_sided, found.fpr95_in_positive, found.fpr95_out_positive):
        assert (share.low, share.high) == (0, 1)


@pytest.mark.parametrize("count", [MIN_CLUSTERS, 40])
def test_pass_rates_of_zero_and_one_have_the_interval_of_clopper_and_pearson(count: int) -> None:
    """If none of n passes, the rate p may be as high as (1 - p)^n = 0.025 says."""
    judge = Judge(normal(100, 27))
    none, every = (judge.measure(torch.full((count,), score)).fpr95_in_positive for score in (99.0, -99.0))
    assert (none.value, none.low, every.value, every.high) == (0, 0, 1, 1)
    assert (1 - none.high) ** count == pytest.approx(0.025)
    assert every.low**count == pytest.approx(0.025)


def test_intervals_from_few_starts_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores differ more between the eight starts than between images; the truth is known by symmetry."""
    monkeypatch.setattr(measures, "RESAMPLES", 300)
    rng = torch.Generator().manual_seed(5)
    covered = []
    for seed in range(100):
        effect = torch.randn(8, generator=rng, dtype=torch.float64)
        inside = torch.randn(100, generator=rng, dtype=torch.float64) / 4
        outside = torch.randn(80, generator=rng, dtype=torch.float64) / 4 + effect.repeat(10)
        found = Judge(inside, seed).measure(outside, clusters=[str(i % 8) for i in range(80)])
        covered.append(found.auroc.low <= 0.5 <= found.auroc.high)
    assert np.mean(covered) >= 0.85  # nominally 0.95


def test_the_seed_decides_the_interval() -> None:
    inside, outside = CASES["apart"]
    one, same, other = (Judge(inside, seed).measure(outside) for seed in (0, 0, 1))
    assert one == same
    assert one.auroc.value == other.auroc.value
    assert one.auroc.low != other.auroc.low


@pytest.mark.parametrize(
    ("inside", "outside", "options", "message"),
    [
        (torch.zeros(0), torch.zeros(3), {}, "expected in-distribution scores, got none"),
        (torch.zeros(3), torch.zeros(0), {}, "expected OOD scores, got none"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(3), {}, "expected in-distribution scores that are .*, got NaN"),
        (torch.zeros(3), torch.tensor([torch.nan]), {}, "expected OOD scores that are numbers, got NaN"),
        (
            torch.zeros(3),
            torch.zeros(2),
            {"starts": torch.tensor([0.0, torch.nan])},
            "expected start scores .*, got NaN",
        ),
        (torch.zeros(3), torch.zeros(2), {"starts": torch.zeros(1)}, "one start for each of 2 OOD images, got 1"),
        (torch.zeros(3), torch.zeros(2), {"clusters": ["a"]}, "one name of a start for each of 2 OOD images, got 1"),
    ],
)
def test_bad_scores_are_rejected(inside: Tensor, outside: Tensor, options: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Judge(inside).measure(outside, **options)  # type: ignore[arg-type]


def _measure(auroc: tuple[float, float, float], clusters: int = 100, rejected: int = 100) -> Measure:
    some = Share(0.0, 0.0, 0.0)
    return Measure(Share(*auroc), some, some, some, some, 0.5, 0.5, 0.0, 100, rejected, clusters)


WORKED = (0.9, 0.85, 0.95)


@pytest.mark.parametrize(
    ("clean", "strongest", "expected"),
    [
        (WORKED, (0.5, 0.45, 0.55), "broken"),
        (WORKED, (0.5, 0.45, 0.551), "bent"),  # the interval is included
        (WORKED, (0.82, 0.8, 0.84), "held"),
        (WORKED, (0.80, 0.7, 0.82), "held"),  # the interval is included here, too
        (WORKED, (0.75, 0.7, 0.80), "bent"),  # below 0.81
        ((0.5, 0.45, 0.6), (0.1, 0.05, 0.2), "blind"),
        ((0.8, 0.55, 1.0), (0.1, 0.05, 0.2), "blind"),  # the lower end decides
        ((0.8, 0.551, 1.0), (0.1, 0.05, 0.2), "broken"),
    ],
)
def test_verdicts(clean: tuple[float, float, float], strongest: tuple[float, float, float], expected: str) -> None:
    before, after = _measure(clean), _measure(strongest)
    assert verdict(before, before, after, finished=True, adaptive=True) == expected
    # Without an attack on the score itself, only damage is news.
    alone = verdict(before, before, after, finished=True, adaptive=False)
    assert alone == ("not attacked adaptively" if expected == "held" else expected)
    # Attacks that failed cannot save a detector that others have broken.
    failed = verdict(before, before, after, finished=False, adaptive=True)
    assert failed == (expected if expected in ("broken", "blind") else "unfinished")


def test_verdicts_that_say_nothing_of_the_detector() -> None:
    held, fell = _measure(WORKED), _measure((0.1, 0.0, 0.2))

    def of(clean: Measure, before: Measure) -> str:
        return verdict(clean, before, fell, finished=True, adaptive=True)

    for clusters, expected in ((MIN_CLUSTERS - 1, "too few starts"), (MIN_CLUSTERS, "broken")):
        assert of(held, _measure(WORKED, clusters)) == expected
    # The set as a whole may be detected where the starts are not, or nearly all starts may pass.
    starts = _measure((0.6, 0.5, 0.7))
    assert of(held, starts) == of(starts, held) == "blind"
    for rejected, expected in ((MIN_REJECTED - 1, "blind"), (MIN_REJECTED, "broken")):
        assert of(held, _measure(WORKED, rejected=rejected)) == expected
        assert of(_measure(WORKED, rejected=rejected), held) == "broken"


@pytest.mark.parametrize("count", [MIN_CLUSTERS, 20])
def test_a_detector_that_separates_the_fewest_starts_perfectly_is_not_blind(count: int) -> None:
    before = Judge(torch.arange(100.0)).measure(torch.arange(200.0, 200.0 + count))
    assert verdict(before, before, before, finished=True, adaptive=True) == "held"


def test_the_worst_verdict_is_that_on_a_set_on_which_the_detector_worked() -> None:
    order = ["broken", "bent", "unfinished", "not attacked adaptively", "held", "blind", "too few starts"]
    assert list(VERDICTS) == order
    for place, name in enumerate(VERDICTS):
        assert worst(list(VERDICTS)[place:][::-1]) == name


@pytest.mark.parametrize(("shift", "value"), [(100, 1.0), (-100, 0.0)])
def test_an_auroc_of_0_or_1_has_an_interval(shift: float, value: float) -> None:
    """Twenty starts that all agree do not exclude others: the interval is that of Clopper and Pearson."""
    found = Judge(torch.arange(50.0)).measure(torch.arange(20.0) + shift).auroc
    width = 1 - binomtest(20, 20).proportion_ci(method="exact").low
    assert found.value == value
    assert found.high - found.low == pytest.approx(width)


def test_intervals_do_not_shrink_away_from_the_ends() -> None:
    """One image more that passes must not lower the upper end."""
    judge = Judge(torch.arange(100.0))
    ends = []
    for passing in range(5):
        scores = torch.full((20,), 200.0)
        scores[:passing] = 0.0
        ends.append(judge.measure(scores).fpr95_in_positive.high)
    assert ends == sorted(ends)
    assert len(set(ends)) == 5
