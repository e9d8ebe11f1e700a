"""The attacks of an audit, each an instance of the one idea: f, and the value that it should have.

- *latent*: f = the penultimate features, the target those of x_in (Algorithm 1), blind to the detector.
- *informed*: f = what the detector reads.
- *direct*: f = the detector's score, to be lowered to that of x_in; from the start and from what *latent* found.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.algorithm import attack
from oodattack.detectors import Classifier, Detector
from oodattack.errors import InputError
from oodattack.gradient import Autograd, Gradient, Pullback, Spsa
from oodattack.metrics import as_matrix
from oodattack.pixels import dequantize, quantize

Function = Callable[[Tensor], Tensor]

CLOSE = 1e-4  # MAPE at which an informed attack is finished: a tenth of what the paper calls small
AIM = 0.02  # of the in-distribution images lie between x_in and where a direct attack aims
CENTRE = 10.0  # of ranks: a MAPE needs a target that is not near zero
DIRECTIONS = 32  # along which a score without gradient is differenced
REACH = 0.01  # of the largest value that is read: how far


@dataclass(frozen=True)
class Attack:
    """One attack on all samples.

    Attributes:
        kind: "latent", "informed" or "direct".
        target: what is read, or the detector's name.
        eps: radius of the ball.
        steps: gradient evaluations in floating point.
    """

    kind: str
    target: str
    eps: float
    steps: int

    @property
    def key(self) -> str:
        """A name for its files.

        >>> Attack("direct", "KNN", 5.0, 100).key
        'direct-KNN-5-100'
        """
        return f"{self.kind}-{self.target}-{self.eps:.6g}-{self.steps}"


@dataclass(frozen=True)
class Found:
    """What an attack found for a batch: images (B, 3, H, W) uint8, and the work and the distance of each."""

    images: Tensor
    mape: Tensor  # (B,) of what was matched; of a direct attack how far the score stayed above its aim, relative to it
    distance: Tensor
    gradient_evaluations: Tensor


@dataclass(frozen=True)
class Samples:
    """A batch of samples: images (B, 3, H, W) in [0, 1], and one seed each."""

    x_in: Tensor
    start: Tensor
    seeds: Sequence[int]


@dataclass(frozen=True)
class Ball:
    """What bounds an attack."""

    eps: float
    norm: float
    steps: int


def match(f: Function, samples: Samples, ball: Ball, *, parts: Sequence[int] | None, tolerance: float) -> Found:
    """Images near the starts whose f is that of x_in."""
    with torch.no_grad():
        target = f(samples.x_in)
    result = attack(
        f,
        samples.start,
        target,
        eps=ball.eps,
        norm=ball.norm,
        steps=ball.steps,
        seed=list(samples.seeds),
        pixels=256,
        parts=parts,
        tolerance=tolerance,
        check=False,
    )
    return Found(
        quantize(result.image).cpu(), result.mape.cpu(), result.distance.cpu(), result.gradient_evaluations.cpu()
    )


def lower(way: "Way", detector: Detector, samples: Samples, ball: Ball, latent: Tensor | None) -> Found:
    """Images near the starts whose score is no higher than that of x_in: the better of two tries a sample.

    Args:
        way: how the score is followed.
        detector: whose score decides between the tries.
        samples: the batch.
        ball: its bound.
        latent: (B, 3, H, W) images in [0, 1] that the latent attack found in this ball, where the second try starts;
            None for no second try.
    """
    target = (way.ranks(detector.score(samples.x_in)) - AIM).clamp_min(CENTRE)
    found: Found | None = None
    best = torch.full((len(target),), torch.inf, dtype=torch.float64)
    evaluations = torch.zeros(len(target), dtype=torch.int64)
    for initial in (None,) if latent is None else (None, latent):
        result = attack(
            way.f,
            samples.start,
            target,
            eps=ball.eps,
            norm=ball.norm,
            steps=ball.steps,
            seed=list(samples.seeds),
            pixels=256,
            gradient=way.gradient,
            tolerance=AIM / 2 / (CENTRE + 1),
            initial=initial,
            below=True,
            check=False,
        )
        score = detector.score(dequantize(quantize(result.image)).to(samples.start)).cpu()
        better = score.nan_to_num(nan=torch.inf) < best
        best = torch.where(better, score, best)
        evaluations += result.gradient_evaluations.cpu()
        now = Found(quantize(result.image).cpu(), result.mape.cpu(), result.distance.cpu(), evaluations)
        found = now if found is None else _merge(better, now, found)
    assert found is not None  # noqa: S101 -- there is one try at least
    return found


def _merge(better: Tensor, new: Found, old: Found) -> Found:
    return Found(
        torch.where(better[:, None, None, None], new.images, old.images),
        torch.where(better, new.mape, old.mape),
        torch.where(better, new.distance, old.distance),
        new.gradient_evaluations,
    )


class Ranks:
    """Scores as ranks among those of in-distribution images: the least has `CENTRE`, the highest 1 more.

    A map that only goes up changes nothing that an AUROC sees, and gives every score its due: of a softmax most
    scores lie within a thousandth of their spread. Between two scores it is linear, and beyond the last ones it goes
    on in spreads (standard deviations), so that it has a slope everywhere.

    Args:
        scores: (N,) finite ones of in-distribution images.

    >>> ranks = Ranks(torch.tensor([0.0, 1.0, 3.0]))
    >>> ranks(torch.tensor([0.0, 0.5, 3.0])) - CENTRE
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """

    def __init__(self, scores: Tensor) -> None:
        scores = scores.double().cpu()
        self.values, counts = torch.unique(scores, return_counts=True)
        middle = counts.cumsum(0) - (counts + 1) / 2  # of those that are equal
        self.ranks = (middle - middle[0]) / (middle[-1] - middle[0]).clamp_min(1) + CENTRE
        self.spread = float(scores.std()) or 1.0

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
        InputError: if these scores are not finite.
    """
    if not bool(scores.isfinite().all()):
        raise InputError("its scores of in-distribution images are not finite")
    ranks = Ranks(scores)
    judge = getattr(detector, "judge", None)

    def f(images: Tensor) -> Tensor:
        return ranks(detector.score(images) if judge is None else judge(detector.reads(images)))

    if _has_slope(f, images):
        return Way(f, Autograd(), "gradient of the score", ranks)
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
    except RuntimeError:  # nothing depends on x, or numpy was asked for
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
        """See `oodattack.gradient.Gradient`."""
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
        drawn = generators or [torch.Generator().manual_seed(i) for i in range(len(z))]  # on the grid there are none
        gauss = torch.stack([torch.randn(z.shape[1], count, generator=g) for g in drawn]).to(z)
        directions = torch.linalg.qr(gauss).Q.transpose(1, 2)  # (B, count, K)
        reach = (REACH * z.abs().amax(1)).clamp_min(torch.finfo(z.dtype).tiny)[:, None, None]
        ahead = self.judge((z[:, None] + reach * directions).flatten(0, 1))
        behind = self.judge((z[:, None] - reach * directions).flatten(0, 1))
        along = (ahead - behind).view(len(z), count, 1).to(z) / (2 * reach)
        slope: Tensor = (along * directions).sum(1)
        return slope


def sample_seed(*parts: object) -> int:
    """A seed of a sample's own, the same whatever else is audited.

    >>> sample_seed(0, "a.png") != sample_seed(0, "b.png")
    True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def reading(name: str, detector: Detector) -> str:
    """What a detector reads, as a name; detectors that share it are attacked together."""
    return getattr(detector, "reading", name)


def read_function(name: str, detector: Detector, classifier: Classifier) -> Function:
    """F of the informed attack on what is read."""
    views = {"features": classifier.features, "logits": classifier.logits}
    return views.get(reading(name, detector), detector.reads)
