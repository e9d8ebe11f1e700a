"""Scores as ranks: the common scale on which the scores of all detectors are attacked and compared."""

import torch
from torch import Tensor

from oodattack.core.ball import wide
from oodattack.core.errors import InputError


class Ranks:
    """Scores as ranks among those of in-distribution images: the lowest has rank 0, the highest 1.

    AUROC is invariant under monotone maps, and ranks keep saturated scores from looking flat: most softmax scores lie
    within a thousandth of their standard deviation. Ranks are interpolated linearly between two scores; beyond the
    outermost ones they continue in units of the standard deviation, so the gradient never vanishes.

    Args:
        scores: (N,) scores of in-distribution images; non-finite ones are ignored.

    Raises:
        InputError: if none is finite.

    >>> ranks = Ranks(torch.tensor([0.0, 1.0, 3.0]))
    >>> ranks(torch.tensor([0.0, 0.5, 3.0]))
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """

    def __init__(self, scores: Tensor) -> None:
        scores = scores.cpu().double()
        scores = scores[scores.isfinite()]
        if len(scores) == 0:
            raise InputError("expected finite scores of in-distribution images, got none")
        self.values, counts = torch.unique(scores, return_counts=True)
        middle = counts.cumsum(0) - (counts + 1) / 2  # equal scores share the mean of their ranks
        self.ranks = (middle - middle[0]) / (middle[-1] - middle[0]).clamp_min(1)
        self.spread = float(scores.std(correction=0)) or 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        """The ranks (B,) of scores (B,), in float64 if the device supports it; differentiable."""
        scores = wide(scores)
        values, ranks = self.values.to(scores), self.ranks.to(scores)
        beyond = torch.where(
            scores < values[0],
            ranks[0] + (scores - values[0]) / self.spread,
            ranks[-1] + (scores - values[-1]) / self.spread,
        )
        if len(values) == 1:
            return beyond
        after = torch.searchsorted(values, scores.detach().contiguous()).clamp(1, len(values) - 1)
        gradient = (ranks[after] - ranks[after - 1]) / (values[after] - values[after - 1])
        between = ranks[after - 1] + (scores - values[after - 1]) * gradient
        return torch.where((scores >= values[0]) & (scores <= values[-1]), between, beyond)
