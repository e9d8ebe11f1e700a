"""How well scores separate out-of-distribution from in-distribution images, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_ood.metrics import functional as metrics
from scipy.stats import t as student
from torch import Tensor

from oodattack.core.errors import InputError

ACCEPTED = 0.95  # fraction of in-distribution images that pass at the threshold
RESAMPLES = 1000
MIN_CLUSTERS = 8  # with fewer different starts, even an AUROC of 1 has an interval that reaches 0.6
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Share:
    """A fraction from 0 to 1, with its 95 % interval; NaN for a fraction of nothing.

    Attributes:
        value: the fraction.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """Figures of one detector on one set of OOD images; all but the threshold and the counts are from 0 to 1.

    Attributes:
        auroc: probability that an OOD image scores higher than an in-distribution one; ties count half.
        two_sided: the same for a detector that flags scores by their distance from the median of in-distribution
            scores, in ranks: abnormally low scores look as suspicious as high ones. 0.5 is chance.
        fpr95_in_positive: FPR at 95 % TPR with in-distribution as the positive class: the fraction of OOD images that
            pass at the threshold that accepts 95 % of the in-distribution images.
        rejected_pass: the same among the images whose starts were rejected.
        fpr95_out_positive: FPR at 95 % TPR with OOD as the positive class, as in OpenOOD: the fraction of
            in-distribution images that are flagged at the threshold that flags 95 % of the OOD images.
        aupr_in: area under the precision-recall curve with in-distribution as the positive class, by the trapezoidal
            rule, as in pytorch-ood; if many scores are equal, it exceeds average precision.
        aupr_out: the same with OOD as the positive class.
        threshold: the threshold of the pass rates: the lowest score that 95 % of the in-distribution images do not
            exceed.
        count: number of OOD images.
        rejected: number of OOD images whose starts were rejected.
        clusters: number of different starts among the OOD images.
    """

    auroc: Share
    two_sided: Share
    fpr95_in_positive: Share
    rejected_pass: Share
    fpr95_out_positive: Share
    aupr_in: float
    aupr_out: float
    threshold: float
    count: int
    rejected: int
    clusters: int


class Judge:
    """Compares OOD scores with those of in-distribution images; higher is more OOD.

    All figures are rank based in float64: they are invariant under monotone maps of the scores. Intervals are 95 %
    percentile intervals of a bootstrap that draws in-distribution images, and starts with all images attacked from
    them, because those are not independent. As a bootstrap of few clusters gives intervals that are too narrow, they
    are widened by Student's t for the number of clusters (by a factor of 1.1 for 20 and of 1.3 for 8); with fewer than
    `MIN_CLUSTERS` they range from 0 to 1. They also allow for the largest share of starts that a sample of this size
    misses altogether with a probability of 2.5 %; where all agree on 0 or 1, this is Clopper and Pearson's interval.

    Args:
        inside: (N,) scores of in-distribution images.
        seed: seed of the bootstrap.

    Raises:
        InputError: if there are no scores, or NaN among them.

    >>> m = Judge(torch.tensor([0.0, 1.0])).measure(torch.tensor([2.0, 3.0]))
    >>> m.auroc.value, m.two_sided.value, m.fpr95_in_positive.value, m.threshold
    (1.0, 1.0, 0.0, 1.0)
    """

    def __init__(self, inside: Tensor, seed: int = 0) -> None:
        self.inside, self.seed = _checked(inside, "in-distribution"), seed
        self.order = np.sort(self.inside)
        self.limit = threshold(inside)
        draws = _multiplicities(np.random.default_rng(seed), len(self.inside))
        # How many of the drawn images are among the k lowest, for every k: (RESAMPLES, N + 1).
        self.below = np.concatenate([np.zeros((RESAMPLES, 1)), draws.cumsum(1)], axis=1)
        places = (self.below[:, 1:] < ACCEPTED * len(self.inside)).sum(1)
        self.limits = self.order[places]

    def rank(self, scores: Tensor) -> Tensor:
        """Where scores (M,) lie among those of in-distribution images, from 0 (below all) to 1; ties count half.

        >>> Judge(torch.tensor([0.0, 1.0])).rank(torch.tensor([-1.0, 0.0, 0.5])).tolist()
        [0.0, 0.25, 0.5]
        """
        low, high = self._places(_checked(scores, "OOD"))
        return torch.from_numpy((low + high) / 2 / len(self.order))

    def measure(
        self, outside: Tensor, *, starts: Tensor | None = None, clusters: Sequence[str] | None = None
    ) -> Measure:
        """Compare the scores of one set of OOD images.

        Args:
            outside: (M,) their scores.
            starts: (M,) the scores of the starts they were attacked from; by default the images are starts themselves.
            clusters: name of the start of each; by default all differ.

        Raises:
            InputError: if there are no scores, NaN among them, or unequal numbers of them.
        """
        found = _checked(outside, "OOD")
        before = found if starts is None else _checked(starts, "start")
        for what, values in (("start", before), ("name of a start", found if clusters is None else clusters)):
            if len(values) != len(found):
                raise InputError(f"expected one {what} for each of {len(found)} OOD images, got {len(values)}")
        names, member = np.unique(clusters if clusters is not None else np.arange(len(found)), return_inverse=True)
        weights = _multiplicities(np.random.default_rng(self.seed + 1), len(names))[:, member]
        low, high = self._places(found)
        won = (low + high) / 2 / len(self.order)
        drawn = (self.below[:, low] + self.below[:, high]) / 2 / len(self.order)
        passes, drawn_passes = found <= self.limit, found[None] <= self.limits[:, None]
        rejected, drawn_rejected = before > self.limit, before[None] > self.limits[:, None]
        inside, scores = torch.from_numpy(self.inside), torch.from_numpy(np.r_[self.inside, found])
        labels = torch.cat([torch.zeros(len(inside)), -torch.ones(len(found))])  # below 0 is OOD to pytorch-ood
        count = len(names)
        return Measure(
            auroc=_share(won.mean(), _mean(drawn, weights), count),
            two_sided=_share(abs(2 * won - 1).mean(), _mean(abs(2 * drawn - 1), weights), count),
            fpr95_in_positive=_share(passes.mean(), _mean(drawn_passes, weights), count),
            rejected_pass=_share(
                passes[rejected].mean() if rejected.any() else math.nan,
                _mean(drawn_passes, weights * drawn_rejected),
                len(np.unique(member[rejected])),
            ),
            fpr95_out_positive=_share(
                float(metrics.fpr_at_tpr(scores, labels, ACCEPTED)), self._flagged(found, weights), count
            ),
            aupr_in=float(metrics.aupr(scores, labels, positive="id")),
            aupr_out=float(metrics.aupr(scores, labels, positive="ood")),
            threshold=self.limit,
            count=len(found),
            rejected=int(rejected.sum()),
            clusters=count,
        )

    def _flagged(self, found: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(RESAMPLES,) shares of in-distribution images that are flagged with 95 % of the OOD images (M,)."""
        descending = np.argsort(-found)
        reached = weights[:, descending].cumsum(1)
        limits = found[descending][(reached < ACCEPTED * reached[:, -1:]).sum(1)]
        places = np.searchsorted(self.order, limits, side="left")
        below = np.take_along_axis(self.below, places[:, None], axis=1)[:, 0]
        shares: np.ndarray = 1 - below / len(self.order)
        return shares

    def _places(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many in-distribution scores are below each score, and how many are not above it."""
        return np.searchsorted(self.order, scores, side="left"), np.searchsorted(self.order, scores, side="right")


def threshold(inside: Tensor) -> float:
    """The lowest score that 95 % of the in-distribution scores (N,) do not exceed.

    >>> threshold(torch.arange(1.0, 101.0))
    95.0
    """
    return float(inside.sort().values[math.ceil(ACCEPTED * len(inside)) - 1])


def _checked(scores: Tensor, what: str) -> np.ndarray:
    values = scores.double().flatten().cpu().numpy()
    if len(values) == 0:
        raise InputError(f"expected {what} scores, got none")
    if np.isnan(values).any():
        raise InputError(f"expected {what} scores that are numbers, got NaN; check the detector on these images")
    return values


def _multiplicities(rng: np.random.Generator, count: int) -> np.ndarray:
    """(RESAMPLES, count): how often each of ``count`` images occurs in each resample."""
    drawn: np.ndarray = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) weighted means of values (RESAMPLES, M); NaN where all weights are zero."""
    total = weights.sum(1)
    found: np.ndarray = np.divide((values * weights).sum(1), total, out=np.full(len(total), math.nan), where=total > 0)
    return found


def _share(value: float, drawn: np.ndarray, clusters: int) -> Share:
    """A fraction with its bootstrap interval, widened for few clusters and for those that the sample may miss."""
    if math.isnan(value):
        return Share(math.nan, math.nan, math.nan)
    if clusters < MIN_CLUSTERS:
        return Share(float(value), 0.0, 1.0)
    drawn = drawn[~np.isnan(drawn)]
    widened = student.ppf(QUANTILES[1], clusters - 1) / 1.96 * math.sqrt(clusters / (clusters - 1))
    low, high = (value + widened * (end - value) for end in np.quantile(drawn, QUANTILES))
    # With a probability of 2.5 %, a sample contains none of a share as large as this.
    missed = 1 - QUANTILES[0] ** (1 / clusters)
    low, high = min(low, value * (1 - missed)), max(high, value + missed * (1 - value))
    return Share(float(value), float(max(low, 0.0)), float(min(high, 1.0)))
