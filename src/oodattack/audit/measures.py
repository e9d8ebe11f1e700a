"""How well scores separate out-of-distribution from in-distribution images, with intervals, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pytorch_ood.metrics import functional as metrics
from torch import Tensor

from oodattack.core.errors import InputError

ACCEPTED = 0.95  # fraction of in-distribution images that pass at the threshold
RESAMPLES = 1000
MIN_GROUPS = 10  # with fewer groups, the bootstrap draws pairs
BROKEN_AUROC = 0.55
BENT_SHARE = 0.9  # fraction of the AUROC before the attack


@dataclass(frozen=True)
class Measure:
    """Figures of one detector on one set of OOD images; all but the threshold and the count are from 0 to 1.

    Attributes:
        auroc: probability that an OOD image scores higher than an in-distribution one; ties count half.
        auroc_low: lower end of its 95 % bootstrap interval.
        auroc_high: upper end.
        fpr95_in_positive: FPR at 95 % TPR with in-distribution as the positive class: the fraction of OOD images that
            pass at the threshold that accepts 95 % of the in-distribution images.
        fpr95_low: lower end of its 95 % bootstrap interval; the threshold is resampled with the images.
        fpr95_high: upper end.
        aupr_in: area under the precision-recall curve with in-distribution as the positive class, by the trapezoidal
            rule, as in pytorch-ood; if many scores are equal, it exceeds average precision.
        aupr_out: the same with OOD as the positive class.
        threshold: the threshold of FPR95: the lowest score that 95 % of the in-distribution images do not exceed.
        count: number of OOD images.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    fpr95_in_positive: float
    fpr95_low: float
    fpr95_high: float
    aupr_in: float
    aupr_out: float
    threshold: float
    count: int


def measure(
    inside: Tensor, outside: Tensor, *, paired: bool = False, groups: Sequence[str] | None = None, seed: int = 0
) -> Measure:
    """Compare in-distribution with OOD scores; higher is more OOD.

    The figures are those of pytorch-ood, rank based in float64: they are invariant under monotone maps of the scores.

    Args:
        inside: (N,) scores of in-distribution images.
        outside: (M,) scores of OOD images.
        paired: whether image ``outside[i]`` was attacked to look like image ``inside[i]``: the bootstrap then draws
            pairs.
        groups: name of the start of each pair. If there are at least ten different starts, and some occur repeatedly,
            the bootstrap draws all pairs of a start together.
        seed: seed of the bootstrap.

    Raises:
        InputError: if there are no scores, NaN among them, or unequal numbers of paired scores.

    >>> m = measure(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    >>> m.auroc, m.fpr95_in_positive, m.threshold
    (1.0, 0.0, 1.0)
    """
    inside, outside = inside.double().flatten().cpu(), outside.double().flatten().cpu()
    if len(inside) == 0 or len(outside) == 0:
        raise InputError(f"expected in-distribution and OOD scores, got {len(inside)} and {len(outside)} of them")
    if bool(inside.isnan().any() or outside.isnan().any()):
        raise InputError("expected scores that are numbers, got NaN; check the detector on these images")
    if paired and len(inside) != len(outside):
        raise InputError(
            f"expected as many OOD as in-distribution scores for pairs, got {len(outside)} and {len(inside)}"
        )
    scores = torch.cat([inside, outside])
    labels = torch.cat([torch.zeros(len(inside)), -torch.ones(len(outside))])  # below 0 is OOD to pytorch-ood
    rng = np.random.default_rng(seed)
    draws = [_draw(rng, len(inside), len(outside), paired, groups) for _ in range(RESAMPLES)]
    low, high = _interval(inside.numpy(), outside.numpy(), draws, paired)
    passed_low, passed_high = _passing(inside.numpy(), outside.numpy(), draws)
    return Measure(
        auroc=float(metrics.auroc(scores, labels)),
        auroc_low=low,
        auroc_high=high,
        fpr95_in_positive=float(metrics.fpr_at_tpr(-scores, -1 - labels, ACCEPTED)),
        fpr95_low=passed_low,
        fpr95_high=passed_high,
        aupr_in=float(metrics.aupr(scores, labels, positive="id")),
        aupr_out=float(metrics.aupr(scores, labels, positive="ood")),
        threshold=threshold(inside),
        count=len(outside),
    )


def threshold(inside: Tensor) -> float:
    """The lowest score that 95 % of the in-distribution scores (N,) do not exceed.

    >>> threshold(torch.arange(1.0, 101.0))
    95.0
    """
    return float(inside.sort().values[math.ceil(ACCEPTED * len(inside)) - 1])


Draw = tuple[np.ndarray, np.ndarray]
"""How often each in-distribution image (N,), and each OOD image (M,), occurs in a resample."""


def _draw(rng: np.random.Generator, inside: int, outside: int, paired: bool, groups: Sequence[str] | None) -> Draw:
    if not paired:
        return _multiplicities(rng, inside), _multiplicities(rng, outside)
    names, member = np.unique(groups if groups is not None else [], return_inverse=True)
    # Attacked images from the same start are not independent.
    if MIN_GROUPS <= len(names) < inside:
        weight = _multiplicities(rng, len(names))[member]
    else:
        weight = _multiplicities(rng, inside)
    return weight, weight


def _multiplicities(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count))


def _interval(inside: np.ndarray, outside: np.ndarray, draws: Sequence[Draw], paired: bool) -> tuple[float, float]:
    """95 % percentile interval of the AUROC over bootstrap resamples.

    The AUROC is the fraction of pairs (in-distribution, OOD) in which the OOD score is higher (Mann and Whitney), so a
    resample only changes the weights of the pairs. An image is compared only once with the x_in that it was attacked to
    look like, however often the two are drawn. The attack makes this comparison one-sided, and weighted by the square
    of its multiplicity, it would count twice on average.
    """
    order = np.sort(inside)
    below = np.searchsorted(order, outside, side="left")
    upto = np.searchsorted(order, outside, side="right")
    rank = np.argsort(inside, kind="stable")
    own = (outside > inside) + (outside == inside) / 2 if paired else np.zeros(len(outside))
    once = 1 - 1 / len(inside)  # mean weight of any other pair
    values = []
    for weight_in, weight_out in draws:
        passed = np.concatenate([[0], np.cumsum(weight_in[rank])])
        won = (passed[below] + passed[upto]) / 2 @ weight_out
        again = weight_in * (weight_in - once) if paired else np.zeros(len(outside))
        values.append(float((won - own @ again) / (weight_in.sum() * weight_out.sum() - again.sum())))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _passing(inside: np.ndarray, outside: np.ndarray, draws: Sequence[Draw]) -> tuple[float, float]:
    """The same for the fraction of OOD images that pass at the threshold of the in-distribution images."""
    rank = np.argsort(inside, kind="stable")
    values = []
    for weight_in, weight_out in draws:
        count = np.cumsum(weight_in[rank])
        limit = inside[rank[np.searchsorted(count, ACCEPTED * count[-1])]]
        values.append(float(weight_out[outside <= limit].sum() / weight_out.sum()))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


Verdict = Literal["broken", "bent", "held", "blind", "unfinished"]
VERDICTS = {
    "broken": "AUROC under the strongest attack on each image at or below 0.55, including its interval",
    "bent": "AUROC under the strongest attack below 0.9 times the AUROC on the starts before the attack",
    "held": "neither, at this eps and budget; a stronger attack may exist",
    "blind": "no better than chance on the starts before any attack, so there is nothing to break",
    "unfinished": "an attack on the detector failed, so there is no verdict",
}


def verdict(clean: Measure, strongest: Measure) -> Verdict:
    """The effect of the attacks on a detector; see `VERDICTS`.

    Args:
        clean: the detector's figures on the starts.
        strongest: its figures on the images that the strongest attack made from them.

    >>> good, bad = (measure(torch.arange(9.0), torch.arange(9.0) + shift) for shift in (9, -9))
    >>> verdict(good, bad), verdict(good, good), verdict(bad, bad)
    ('broken', 'held', 'blind')
    """
    if clean.auroc_high <= BROKEN_AUROC:
        return "blind"
    if strongest.auroc_high <= BROKEN_AUROC:
        return "broken"
    return "bent" if strongest.auroc < BENT_SHARE * clean.auroc else "held"
