"""The goal of an attack: the starts, balls and objectives of a batch, in the same form for every method.

`Match` brings f(x) to a target (Algorithm 1, line 3); `Lowest` minimises a score.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.metrics import UNDEFINED_MAPE, as_matrix, mape

# A target below this fraction of the start's error is no useful scale: squared errors would leave float32's range.
NEGLIGIBLE_TARGET = 1e-6


@dataclass(frozen=True)
class Problem(ABC):
    """A batch of independent problems; every tensor has one row per sample.

    Attributes:
        start: (B, 3, H, W) centres of the balls, pixels in [0, 1].
        eps: (B,) radii.
        norm: 1, 2 or infinity.
    """

    start: Tensor
    eps: Tensor
    norm: float

    def rows(self, rows: Tensor) -> Self:
        """The problems of some samples."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        chosen: dict[str, Any] = {name: value[rows] for name, value in values if isinstance(value, Tensor)}
        return replace(self, **chosen)

    @property
    @abstractmethod
    def start_loss(self) -> Tensor:
        """(B,) losses of the starts."""

    @abstractmethod
    def error(self, latent: Tensor) -> Tensor:
        """(B, K) the errors that a method reduces, given latents (B, K)."""

    @abstractmethod
    def loss(self, latent: Tensor, error: Tensor) -> Tensor:
        """(B,) J, which decides between two images of a sample, given their latents and errors, both (B, K)."""

    @abstractmethod
    def cotangent(self, push: Tensor) -> Tensor:
        """(B, K) the weights w for which J_f^T w is the gradient J', given the error or the push that replaces it."""

    @abstractmethod
    def judge(self, latent: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """The figure to report for latents (B, K), and whether their samples are finished: both (B,)."""

    @abstractmethod
    def mape(self, latent: Tensor) -> Tensor:
        """(B,) MAPE of latents (B, K); NaN where it is undefined."""

    @abstractmethod
    def part_mape(self, latent: Tensor) -> Tensor:
        """(B, P) MAPE of each part of latents (B, K); NaN where it is undefined."""

    @abstractmethod
    def notes(self) -> list[str]:
        """(B,) why a sample's MAPE is undefined, or an empty string."""


@dataclass(frozen=True)
class Match(Problem):
    """Bring the latent to a target: J = ‖f(x) - t‖^2 (Algorithm 1, line 3), each part of the latent on its own scale.

    Attributes:
        target: (B, K) latents to reach.
        weight: (B, K) weights of the errors.
        start_error: (B,) lengths of the starts' weighted errors.
        parts: lengths of the parts of a latent, the same for all samples.
        below: whether latents below the target count as having reached it.
    """

    target: Tensor
    weight: Tensor
    start_error: Tensor
    parts: tuple[int, ...]
    below: bool = False

    @property
    def start_loss(self) -> Tensor:
        """See `Problem`."""
        return self.start_error.square()

    def error(self, latent: Tensor) -> Tensor:
        """The weighted errors, whose squares sum to J.

        With a single part, the error is divided by one number per sample, which does not change h(J'). Without the
        division, squares of very small or very large latents would leave the range of float32 and the attack would
        stall.
        """
        return (self._clipped(latent) - self.target) * self.weight

    def loss(self, latent: Tensor, error: Tensor) -> Tensor:  # noqa: ARG002 -- the error suffices
        """See `Problem`."""
        return error.square().sum(1)

    def cotangent(self, push: Tensor) -> Tensor:
        """See `Problem`."""
        return 2 * self.weight * push

    def judge(self, latent: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """The MAPE, and whether that of the worst part is within the tolerance; an undefined one never is."""
        latent = self._clipped(latent)
        whole = mape(latent, self.target)
        worst = whole if len(self.parts) == 1 else part_mape(latent, self.target, self.parts).amax(1)
        return whole, worst <= tolerance

    def mape(self, latent: Tensor) -> Tensor:
        """See `Problem`."""
        return mape(self._clipped(latent), self.target)

    def part_mape(self, latent: Tensor) -> Tensor:
        """See `Problem`."""
        return part_mape(self._clipped(latent), self.target, self.parts)

    def notes(self) -> list[str]:
        """See `Problem`."""
        return ["" if defined else UNDEFINED_MAPE for defined in self.target.any(1).tolist()]

    def _clipped(self, latent: Tensor) -> Tensor:
        """Latents in the target's type; those below an upper bound are replaced by it."""
        latent = latent.to(self.target)
        return latent.maximum(self.target) if self.below else latent


@dataclass(frozen=True)
class Lowest(Problem):
    """Minimise a score, f: (B, 3, H, W) -> (B, 1): J = f(x).

    Attributes:
        start_score: (B,) scores of the starts.
    """

    start_score: Tensor

    @property
    def start_loss(self) -> Tensor:
        """See `Problem`."""
        return self.start_score

    def error(self, latent: Tensor) -> Tensor:
        """Ones: the score has no target, and its derivative with respect to itself is 1."""
        return torch.ones_like(latent)

    def loss(self, latent: Tensor, error: Tensor) -> Tensor:  # noqa: ARG002 -- the score suffices
        """See `Problem`."""
        return latent[:, 0].to(self.start_score)

    def cotangent(self, push: Tensor) -> Tensor:
        """See `Problem`."""
        return push

    def judge(self, latent: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002 -- no target to be within
        """The score; no sample is ever finished."""
        score = latent[:, 0].to(self.start_score)
        return score, torch.zeros_like(score, dtype=torch.bool)

    def mape(self, latent: Tensor) -> Tensor:
        """See `Problem`."""
        return torch.full_like(latent[:, 0], math.nan)

    def part_mape(self, latent: Tensor) -> Tensor:
        """See `Problem`."""
        return torch.full_like(latent[:, :1], math.nan)

    def notes(self) -> list[str]:
        """See `Problem`."""
        return [""] * len(self.start_score)


def make_problem(
    start: Tensor,
    start_latent: Tensor,
    target: Tensor | None,
    eps: Tensor,
    norm: float,
    parts: Sequence[int] | None = None,
    *,
    below: bool = False,
) -> Match | Lowest:
    """The problem of a batch: to match targets, or without targets to minimise a score.

    Args:
        start: (B, 3, H, W) starts.
        start_latent: (B, K) or (B,) f(start).
        target: the same shape; None to minimise a score.
        eps: (B,) radii.
        norm: 1, 2 or infinity.
        parts: lengths of the parts of the latent; None for one.
        below: whether targets are upper bounds.

    Raises:
        InputError: if the target or the parts do not fit the shape of f(start).
    """
    latent = as_matrix(start_latent)
    # At least float32: squares of 16-bit errors would be zero long before the errors are.
    wide = torch.promote_types(start_latent.dtype, torch.float32)
    if target is None:
        if latent.shape[1] != 1:
            raise InputError(
                f"expected f to give one score per image, (B,) or (B, 1), where target=None, got {latent.shape[1]}"
                " numbers; give their target, or an f that returns the score to lower"
            )
        return Lowest(start, eps, norm, latent[:, 0].to(wide))
    if target.shape != start_latent.shape:
        raise InputError(
            f"expected target of shape {tuple(start_latent.shape)}, which f gives for start, got {tuple(target.shape)}"
        )
    lengths = part_lengths(parts, latent.shape[1])
    flat = as_matrix(target.detach().to(start_latent.device, wide))
    problem = Match(start, eps, norm, flat, _weights(flat, latent, lengths), flat.new_zeros(len(flat)), lengths, below)
    return replace(problem, start_error=problem.error(latent).norm(dim=1))


def part_lengths(parts: Sequence[int] | None, length: int) -> tuple[int, ...]:
    """The parts, checked against the latent's length; by default the whole latent is one part.

    Raises:
        InputError: if the parts are not positive or do not add up.

    >>> part_lengths(None, 5), part_lengths([2, 3], 5)
    ((5,), (2, 3))
    """
    if parts is None:
        return (length,)
    if min(parts, default=0) < 1 or sum(parts) != length:
        raise InputError(f"expected positive parts that add up to the latent's {length}, got {tuple(parts)}")
    return tuple(parts)


def part_mape(latent: Tensor, target: Tensor, parts: Sequence[int]) -> Tensor:
    """MAPE of every part: (B, P) from latents (B, K).

    >>> part_mape(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 5.0]]), [1, 1]).tolist()
    [[0.5, 0.0]]
    """
    pairs = zip(torch.split(latent, list(parts), dim=1), torch.split(target, list(parts), dim=1), strict=True)
    return torch.stack([mape(z, t) for z, t in pairs], dim=1)


def _weights(target: Tensor, start_latent: Tensor, parts: Sequence[int]) -> Tensor:
    """Weights (B, K) that put every part on the scale of its own MAPE."""
    lengths = list(parts)
    columns = []
    for t, z in zip(torch.split(target, lengths, dim=1), torch.split(start_latent, lengths, dim=1), strict=True):
        scale, error = (values.abs().amax(1, keepdim=True) for values in (t, z - t))
        # A target that is zero, or close to it, gives its part no scale; the start's error then does.
        scale = torch.where((scale > NEGLIGIBLE_TARGET * error) | ~error.isfinite(), scale, error)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        columns.append((1 / (scale * math.sqrt(t.shape[1]))).expand_as(t))
    return torch.cat(columns, dim=1)
