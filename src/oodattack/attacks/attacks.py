"""The attacks of an audit, each an instance of the one idea: f, and the value that it should have.

- *latent*: f = the penultimate features, the target those of x_in (Algorithm 1), blind to the detector.
- *informed*: f = what the detector reads.
- *direct*: f = the detector's score, to be lowered to that of x_in; from the start and from what *latent* found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.attacks.ways import CENTRE, Function, Way
from oodattack.core.attack import attack
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import Classifier, Detector

VIEWS = ("features", "logits")  # of the network itself: whoever reads them is attacked together
CLOSE = 1e-4  # MAPE at which an informed attack is finished: a tenth of what the paper calls small
AIM = 0.02  # of the in-distribution images lie between x_in and where a direct attack aims
TOLERANCE = AIM / 2 / (CENTRE + 1)  # the MAPE at which it has arrived


@dataclass(frozen=True)
class Attack:
    """One attack on all samples.

    Attributes:
        kind: "latent", "informed" or "direct".
        target: what is read, or the detector's name.
        eps: radius of the ball.
        steps: gradient evaluations in floating point.
        version: of a target whose code may change.
    """

    kind: str
    target: str
    eps: float
    steps: int
    version: str = ""

    @property
    def key(self) -> str:
        """A name for its files.

        >>> Attack("direct", "KNN", 5.0, 100).key
        'direct-KNN-5-100'
        """
        return f"{self.kind}-{self.target}-{self.eps:.9g}-{self.steps}" + f"-{self.version[:8]}" * bool(self.version)


@dataclass(frozen=True)
class Found:
    """What an attack found for a batch: images (B, 3, H, W) uint8, and the work and the distance of each."""

    images: Tensor
    mape: Tensor  # (B,) of what was matched; of a direct attack how far the score stayed above its aim, relative to it
    distance: Tensor
    gradient_evaluations: Tensor
    forward_evaluations: Tensor  # passes without a gradient


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
    return _run(f, samples, target, ball, parts=parts, tolerance=tolerance)


def lower(way: Way, detector: Detector, samples: Samples, ball: Ball, latent: Tensor | None) -> Found:
    """Images near the starts whose score is no higher than that of x_in: the better of two tries a sample.

    Args:
        way: how the score is followed.
        detector: whose score decides between the tries.
        samples: the batch.
        ball: its bound.
        latent: (B, 3, H, W) images in [0, 1] that the latent attack found in this ball, where the second try starts;
            None for no second try.
    """
    # A score without end counts as the highest that is finite.
    target = (way.ranks(detector.score(samples.x_in)).clamp_max(CENTRE + 1) - AIM).clamp_min(CENTRE)
    target = target.to(samples.start.device, torch.float32 if samples.start.device.type == "mps" else torch.float64)
    found = _try(way, samples, target, ball, None)
    # Where the score is not low enough yet, the other try may be the better one.
    rest = (found.mape > TOLERANCE).nonzero().flatten()
    if latent is None or len(rest) == 0:
        return found
    some = Samples(samples.x_in[rest], samples.start[rest], [samples.seeds[i] for i in rest.tolist()])
    again = _try(way, some, target[rest], ball, latent[rest])
    before, after = (
        detector.score(dequantize(images).to(samples.start)).cpu().nan_to_num(nan=torch.inf)
        for images in (found.images[rest], again.images)
    )
    better = after < before
    for name in ("images", "mape", "distance"):
        getattr(found, name)[rest[better]] = getattr(again, name)[better]
    found.gradient_evaluations[rest] += again.gradient_evaluations
    found.forward_evaluations[rest] += again.forward_evaluations
    return found


def _try(way: Way, samples: Samples, target: Tensor, ball: Ball, initial: Tensor | None) -> Found:
    """One attack on ranks."""
    return _run(
        way.f,
        samples,
        target,
        ball,
        gradient=way.gradient,
        tolerance=TOLERANCE,
        initial=initial,
        below=True,
    )


def _run(f: Function, samples: Samples, target: Tensor, ball: Ball, **options: Any) -> Found:
    result = attack(
        f,
        samples.start,
        target,
        eps=ball.eps,
        norm=ball.norm,
        steps=ball.steps,
        seed=list(samples.seeds),
        pixels=256,
        check=False,
        **options,
    )
    return Found(
        quantize(result.image).cpu(),
        result.mape.cpu(),
        result.distance.cpu(),
        result.gradient_evaluations.cpu(),
        result.forward_evaluations.cpu(),
    )


def reading(name: str, detector: Detector) -> str:
    """What a detector reads, as a name; detectors that share it are attacked together."""
    return str(getattr(detector, "reading", name))


def read_function(name: str, detector: Detector, classifier: Classifier) -> Function:
    """F of the informed attack on what is read."""
    what = reading(name, detector)
    view: Function = getattr(classifier, what) if what in VIEWS else detector.reads
    return view
