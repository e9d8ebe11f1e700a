"""What the attacks did to a detector, in one word."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from oodattack.auditing.measures import MIN_CLUSTERS, Measure

BROKEN_AUROC = 0.55
BENT_SHARE = 0.9  # fraction of the AUROC before the attack
MIN_REJECTED = 5  # of the starts, before the attack

Verdict = Literal["broken", "bent", "unfinished", "not attacked adaptively", "held", "blind", "too few starts"]
VERDICTS: dict[Verdict, str] = {
    "broken": "it worked before the attack, and its AUROC under the strongest attack on each image is at or below"
    " 0.55, including the interval",
    "bent": "AUROC under the strongest attack, including its interval, below 0.9 times that of its starts",
    "unfinished": "an attack on the detector failed, and the others did not break it",
    "not attacked adaptively": "neither, but the direct attack could not run on its score, so this says little",
    "held": "neither, at this eps and budget; a stronger attack may exist",
    "blind": "before the attack, its AUROC is not above 0.55, including the interval, on the set or on the starts, or"
    f" it rejects fewer than {MIN_REJECTED} of the starts: there is nothing to break",
    "too few starts": f"fewer than {MIN_CLUSTERS} different starts, from which nothing follows for others",
}
"""Every verdict with its meaning, the worst first; the last two say nothing about attacks."""
NOT_WORKING: Sequence[Verdict] = ("blind", "too few starts")


def verdict(clean: Measure, before: Measure, strongest: Measure, *, finished: bool, adaptive: bool) -> Verdict:
    """The effect of the attacks from one set of starts in one ball; see `VERDICTS`.

    Args:
        clean: the detector's figures on all images of the set.
        before: its figures on those from which attacks start.
        strongest: its figures on the images that the strongest of the attacks that ran made from them.
        finished: whether every attack ran.
        adaptive: whether the direct attack was among the attacks.

    >>> import torch
    >>> from oodattack.auditing.measures import Judge
    >>> judge = Judge(torch.arange(9.0))
    >>> high, low = (judge.measure(torch.arange(9.0) + shift) for shift in (9, -9))
    >>> cases = ((high, low), (high, high), (low, low))
    >>> [verdict(before, before, after, finished=True, adaptive=True) for before, after in cases]
    ['broken', 'held', 'blind']
    >>> verdict(high, high, high, finished=True, adaptive=False)
    'not attacked adaptively'
    """
    if min(clean.clusters, before.clusters) < MIN_CLUSTERS:
        return "too few starts"
    if min(clean.auroc.low, before.auroc.low) <= BROKEN_AUROC or before.rejected < MIN_REJECTED:
        return "blind"
    if strongest.auroc.high <= BROKEN_AUROC:
        return "broken"
    if not finished:
        return "unfinished"
    if strongest.auroc.high < BENT_SHARE * before.auroc.value:
        return "bent"
    return "held" if adaptive else "not attacked adaptively"


def worst_set(row: Mapping[str, Any]) -> str:
    """The set of starts on which a detector did worst at the largest eps, of those that its verdict speaks of.

    Args:
        row: a detector's entry in the results of an audit.

    >>> sets = {name: {"radii": [{"auroc": {"value": value}}]} for name, value in (("a", 0.5), ("b", 0.1), ("c", 0.0))}
    >>> worst_set({"verdict_of": ["a", "b"], "sets": sets})
    'b'
    """
    return str(min(row["verdict_of"], key=lambda name: row["sets"][name]["radii"][-1]["auroc"]["value"]))


def worst(found: Sequence[Verdict]) -> Verdict:
    """The verdict over several sets of starts: the worst of those that say something about attacks, if there are any.

    >>> worst(["held", "blind", "bent"]), worst(["blind"])
    ('bent', 'blind')
    """
    return min(found, key=list(VERDICTS).index)
