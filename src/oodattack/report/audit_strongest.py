"""What the strongest attack made of each start, for one detector, one set of starts and one ball."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from oodattack.auditing.data import in_turn
from oodattack.auditing.inputs import IN
from oodattack.auditing.measures import threshold

Scores = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Strongest:
    """The scores of a detector before and after the strongest attack on each start; higher is more OOD.

    Attributes:
        inside: (N,) scores of held-out in-distribution images.
        before: (M,) scores of the starts, row by row.
        after: (M,) the lowest score that an attack within the ball reached, or the start's own if it is lower.
        attack: for each row, the key of the attack that reached it; None where no attack lowered the score.
        limit: the threshold: images with a higher score are rejected.
    """

    inside: np.ndarray
    before: np.ndarray
    after: np.ndarray
    attack: Sequence[str | None]
    limit: float

    @property
    def passes(self) -> np.ndarray:
        """(M,) whether each attacked image passes."""
        return np.asarray(self.after <= self.limit)

    @property
    def rejected(self) -> np.ndarray:
        """(M,) whether each start is rejected."""
        return np.asarray(self.before > self.limit)


def strongest(
    detector: Mapping[str, Any], scores: Scores, starts: str, *, eps: float, steps: int, rows: int
) -> Strongest:
    """Find the strongest attack on each start.

    Args:
        detector: a row of an audit's results.
        scores: the scores of the audit.
        starts: name of the set of starts.
        eps: radius of the ball; attacks in smaller balls count too.
        steps: the largest number of steps; attacks with fewer count too.
        rows: number of attacks from the set; starts take turns.

    >>> import torch
    >>> found = {"name": "KNN", "attacked": {"a": {"starts": "scans", "eps": 1.0, "steps": 9}}}
    >>> scores = {("KNN", key): torch.tensor(values, dtype=torch.float64)
    ...     for key, values in {"in": [0.0, 1.0], "scans": [3.0, 4.0], "a": [0.5, 5.0]}.items()}
    >>> made = strongest(found, scores, "scans", eps=1.0, steps=9, rows=2)
    >>> made.after.tolist(), made.attack, made.passes.tolist()
    ([0.5, 4.0], ['a', None], [True, False])
    """
    name = detector["name"]
    keys = [
        key
        for key, at in detector["attacked"].items()
        if at["starts"] == starts and float(at["eps"]) <= eps and at["steps"] <= steps
    ]
    before = in_turn(scores[name, starts], rows).numpy()
    values = np.stack([before, *(scores[name, key].numpy() for key in keys)])
    which = values.argmin(0)
    inside = scores[name, IN]
    return Strongest(
        inside.numpy(),
        before,
        values[which, np.arange(rows)],
        [None if number == 0 else keys[number - 1] for number in which.tolist()],
        threshold(inside),
    )
