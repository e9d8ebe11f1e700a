"""How well scores tell out-of-distribution images from in-distribution ones, with intervals, and the verdict."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pytorch_ood.metrics import functional as metrics
from torch import Tensor

from oodattack.errors import InputError

ACCEPTED = 0.95  # of in-distribution images pass at the threshold
RESAMPLES = 1000
BROKEN, BENT = 0.55, 0.9


@dataclass(frozen=True)
class Measure:
    """Figures of one detector on one set of out-of-distribution images; all are shares from 0 to 1.

    Attributes:
        auroc: probability that an OOD image scores higher than an in-distribution one; ties count half.
        auroc_low: lower end of its 95 % bootstrap interval.
        auroc_high: upper end.
        fpr95_in_positive: FPR at 95 % TPR with in-distribution as the positive class: the share of OOD images that pass
            at the threshold that accepts 95 % of the in-distribution images.
        aupr_in: area under the precision-recall curve, in-distribution positive; by trapezoids, as pytorch-ood has it,
            which is more than average precision where many scores are equal.
        aupr_out: the same, OOD positive.
        threshold: that threshold, the least score that 95 % of the in-distribution images do not exceed.
        count: number of OOD images.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    fpr95_in_positive: float
    aupr_in: float
    aupr_out: float
    threshold: float
    count: int


def measure(inside: Tensor, outside: Tensor, *, paired: bool = False, seed: int = 0) -> Measure:
    """Compare in-distribution with OOD scores, higher being more OOD.

    The figures are those of pytorch-ood, rank based in float64: neither the size of scores nor a monotone map of them
    matters.

    Args:
        inside: (N,) scores of in-distribution images.
        outside: (M,) scores of OOD images.
        paired: whether ``outside[i]`` was attacked to look like ``inside[i]``: the bootstrap then draws pairs.
        seed: of the bootstrap.

    Raises:
        InputError: if there are no scores, or NaN among them, or pairs of unequal number.

    >>> m = measure(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    >>> m.auroc, m.fpr95_in_positive, m.threshold
    (1.0, 0.0, 1.0)
    """
    inside, outside = inside.double().flatten().cpu(), outside.double().flatten().cpu()
    if len(inside) == 0 or len(outside) == 0:
        raise InputError(f"expected scores of both kinds, got {len(inside)} inside and {len(outside)} outside")
    if bool(inside.isnan().any() or outside.isnan().any()):
        raise InputError("expected scores that are numbers, got NaN; see what the detector gives for these images")
    if paired and len(inside) != len(outside):
        raise InputError(f"expected as many scores outside as inside for pairs, got {len(outside)} and {len(inside)}")
    scores = torch.cat([inside, outside])
    labels = torch.cat([torch.zeros(len(inside)), -torch.ones(len(outside))])  # below 0 is OOD to pytorch-ood
    low, high = _interval(inside.numpy(), outside.numpy(), paired, seed)
    return Measure(
        auroc=float(metrics.auroc(scores, labels)),
        auroc_low=low,
        auroc_high=high,
        fpr95_in_positive=float(metrics.fpr_at_tpr(-scores, -1 - labels, ACCEPTED)),
        aupr_in=float(metrics.aupr(scores, labels, positive="id")),
        aupr_out=float(metrics.aupr(scores, labels, positive="ood")),
        threshold=threshold(inside),
        count=len(outside),
    )


def threshold(inside: Tensor) -> float:
    """The least score that 95 % of the in-distribution scores (N,) do not exceed.

    >>> threshold(torch.arange(1.0, 101.0))
    95.0
    """
    return float(inside.sort().values[math.ceil(ACCEPTED * len(inside)) - 1])


def _interval(inside: np.ndarray, outside: np.ndarray, paired: bool, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the AUROC over bootstrap resamples.

    An AUROC is the mean over pairs of who is higher (Mann and Whitney), so a resample only weighs the pairs anew. An
    image attacked to look like another is compared with it once, however often the two are drawn: counted with the
    square, their part, which an attack makes one-sided, would double.
    """
    rng = np.random.default_rng(seed)
    order = np.sort(inside)
    below = np.searchsorted(order, outside, side="left")
    upto = np.searchsorted(order, outside, side="right")
    rank = np.argsort(inside, kind="stable")
    own = (outside > inside) + (outside == inside) / 2 if paired else np.zeros(len(outside))
    once = 1 - 1 / len(inside)  # the mean weight of any other two
    values = []
    for _ in range(RESAMPLES):
        weight_in = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)))
        weight_out = weight_in if paired else rng.multinomial(len(outside), np.full(len(outside), 1 / len(outside)))
        passed = np.concatenate([[0], np.cumsum(weight_in[rank])])
        won = (passed[below] + passed[upto]) / 2 @ weight_out
        again = weight_in * (weight_in - once) if paired else np.zeros(len(outside))
        values.append(float((won - own @ again) / (len(inside) * len(outside) - again.sum())))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


Verdict = Literal["broken", "bent", "held", "blind"]
VERDICTS = {
    "broken": "AUROC under the strongest attack, its interval included, at or below 0.55",
    "bent": "AUROC under the strongest attack below 0.9 of that of the starts before it",
    "held": "held at this eps and budget; a stronger attack may come",
    "blind": "no better than chance on the starts before any attack: there is nothing to break",
}


def verdict(clean: Measure, strongest: Measure) -> Verdict:
    """What an attack did to a detector; see `VERDICTS`.

    Args:
        clean: on the starts.
        strongest: on what the strongest attack made of them.

    >>> good, bad = (measure(torch.arange(9.0), torch.arange(9.0) + shift) for shift in (9, -9))
    >>> verdict(good, bad), verdict(good, good), verdict(bad, bad)
    ('broken', 'held', 'blind')
    """
    if clean.auroc_high <= BROKEN:
        return "blind"
    if strongest.auroc_high <= BROKEN:
        return "broken"
    return "bent" if strongest.auroc < BENT * clean.auroc else "held"
