"""How a detector's score is followed: as ranks, by its gradient or by differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.gradient import Autograd, Gradient, Pullback, Spsa
from oodattack.core.metrics import as_matrix
from oodattack.detectors import Detector

Function = Callable[[Tensor], Tensor]

CENTRE = 10.0  # of ranks: a MAPE needs a target that is not near zero
DIRECTIONS = 32  # along which a score without gradient is differenced
REACH = 0.01  # of the largest value that is read: how far


class Ranks:
    """Scores as ranks among those of in-distribution images: the least has `CENTRE`, the highest 1 more.

    A map that only goes up changes nothing that an AUROC sees, and gives every score its due: of a softmax most
    scores lie within a thousandth of their spread. Between two scores it is linear, and beyond the last ones it goes
    on in spreads (standard deviations), so that it has a slope everywhere.

    Args:
        scores: (N,) of in-distribution images; those that are not finite are left out.

    Raises:
        InputError: if none is finite.

    >>> ranks = Ranks(torch.tensor([0.0, 1.0, 3.0]))
    >>> ranks(torch.tensor([0.0, 0.5, 3.0])) - CENTRE
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """

    def __init__(self, scores: Tensor) -> None:
        scores = scores.cpu().double()
        scores = scores[scores.isfinite()]
        if len(scores) == 0:
            raise InputError("none of its scores of in-distribution images is finite")
        self.values, counts = torch.unique(scores, return_counts=True)
        middle = counts.cumsum(0) - (counts + 1) / 2  # of those that are equal
        self.ranks = (middle - middle[0]) / (middle[-1] - middle[0]).clamp_min(1) + CENTRE
        self.spread = float(scores.std(correction=0)) or 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        """(B,), in float64 where the device has it; differentiable."""
        scores = scores if scores.device.type == "mps" else scores.double()
        values, ranks = self.values.to(scores), self.ranks.to(scores)
        beyond = torch.where(
            scores < values[0],
            ranks[0] + (scores - values[0]) / self.spread,
            ranks[-1] + (scores - values[-1]) / self.spread,
        )
        if len(values) == 1:
            return beyond
        after = torch.searchsorted(values, scores.detach().contiguous()).clamp(1, len(values) - 1)
        slope = (ranks[after] - ranks[after - 1]) / (values[after] - values[after - 1])
        between = ranks[after - 1] + (scores - values[after - 1]) * slope
        return torch.where((scores >= values[0]) & (scores <= values[-1]), between, beyond)


@dataclass(frozen=True)
class Way:
    """How a detector's score is followed by a direct attack.

    Attributes:
        f: images to ranks (B,).
        gradient: where its slope comes from.
        how: the same in words.
        ranks: from scores to ranks.
    """

    f: Function
    gradient: Gradient
    how: str
    ranks: Ranks


def find_way(detector: Detector, images: Tensor, scores: Tensor) -> Way:
    """A direct attack's way: by the score's gradient where it has one, by differences where it has none.

    Args:
        detector: fitted.
        images: (B, 3, H, W) a few images in [0, 1], where the gradient is tried.
        scores: of many in-distribution images.

    Raises:
        InputError: if none of these scores is finite, or the detector says that it cannot be followed.
    """
    ranks = Ranks(scores)
    judge = getattr(detector, "judge", None)

    def f(images: Tensor) -> Tensor:
        return ranks(detector.score(images) if judge is None else judge(detector.reads(images)))

    if _has_slope(f, images):
        return Way(f, Autograd(), "gradient of the score", ranks)
    if judge is None and hasattr(detector, "unfollowed"):
        raise InputError(detector.unfollowed)
    if judge is None:
        return Way(f, Spsa(directions=8), "SPSA on the image", ranks)
    differences = Differences(detector.reads, lambda reads: ranks(judge(reads)))
    return Way(f, differences, "differences of the score along what it reads", ranks)


def _has_slope(f: Function, images: Tensor) -> bool:
    """Whether f has a finite gradient that is not zero."""
    x = images.detach().clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(f(x).sum(), x)
    except (RuntimeError, TypeError):  # nothing depends on x, or numpy was asked for
        return False
    return bool(slope.isfinite().all() and slope.any())


@dataclass(frozen=True)
class Differences:
    """The gradient of judge(reads(x)) where the judge has none.

    The judge is differenced along random orthonormal directions of what it reads, and the result pulled back through
    the network by autograd: one pass of the network, 2 * `DIRECTIONS` of the judge alone. It is SPSA's idea (Spall
    1992; Section IV of the paper) in a space of tens or hundreds of dimensions in place of thousands of pixels;
    orthonormal directions give the gradient's exact projection, whose length a Polyak step can rely on.
    """

    reads: Function
    judge: Function
    passes: int = 1
    forwards: int = 0

    def __call__(self, f: Function, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Pullback]:  # noqa: ARG002 -- of the protocol
        """See `oodattack.core.gradient.Gradient`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            reads = as_matrix(self.reads(x))
        z = reads.detach()
        with torch.no_grad():
            scores = as_matrix(self.judge(z))

        def pullback(weights: Tensor) -> Tensor:
            slope = self._slope(z, generators)
            (gradient,) = torch.autograd.grad(reads, x, weights.to(slope) * slope)
            return gradient

        return scores, pullback

    @torch.no_grad()
    def _slope(self, z: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, K) projections of the judge's gradients."""
        count = min(DIRECTIONS, z.shape[1])
        gauss = torch.stack([torch.randn(z.shape[1], count, generator=g) for g in generators]).double()
        directions = torch.linalg.qr(gauss).Q.transpose(1, 2).to(z)  # (B, count, K); not every device has it
        reach = (REACH * z.abs().amax(1)).clamp_min(torch.finfo(z.dtype).tiny)[:, None, None]
        ahead = self.judge((z[:, None] + reach * directions).flatten(0, 1))
        behind = self.judge((z[:, None] - reach * directions).flatten(0, 1))
        along = (ahead - behind).view(len(z), count, 1).to(z) / (2 * reach)
        slope: Tensor = (along * directions).sum(1)
        return slope
