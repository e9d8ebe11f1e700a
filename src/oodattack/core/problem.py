"""The question that an attack answers: starts, targets and balls of a batch, checked and brought to one form."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.metrics import as_matrix, mape

NEGLIGIBLE = 1e-6  # of the first error: by a target so small, the squares of errors would leave float32's range


@dataclass(frozen=True)
class Problem:
    """A batch of independent problems; everything has one row per sample.

    Attributes:
        start: (B, 3, H, W) centres of the balls.
        target: (B, K) latents to reach.
        weight: (B, K) weights of the errors.
        eps: (B,) radii.
        start_error: (B,) lengths of the start's errors.
        parts: lengths of the parts of a latent, the same for all.
        below: whether a target is reached by every latent below it, too.
    """

    start: Tensor
    target: Tensor
    weight: Tensor
    eps: Tensor
    start_error: Tensor
    parts: tuple[int, ...]
    below: bool = False

    def rows(self, rows: Tensor) -> "Problem":
        """The problems of some samples."""
        return replace(
            self,
            start=self.start[rows],
            target=self.target[rows],
            weight=self.weight[rows],
            eps=self.eps[rows],
            start_error=self.start_error[rows],
        )

    def aim(self, latent: Tensor) -> Tensor:
        """Latents in the target's type, with what is as good as the target taken for it."""
        latent = latent.to(self.target)
        return latent.maximum(self.target) if self.below else latent

    def error(self, latent: Tensor) -> Tensor:
        """(B, K) errors of latents, whose squares add up to J = ‖f(x) - t‖^2 (Algorithm 1, line 3).

        Each part of the latent is on its own scale. A latent of one part is divided by one number, which h(J') does
        not see; undivided, the squares of very small or very large latents would leave the range of float32, and the
        attack would stand still.
        """
        return (self.aim(latent) - self.target) * self.weight

    def judge(self, latent: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """MAPE (B,), and whether it is within the tolerance; the worst part decides, an undefined one never arrives."""
        latent = self.aim(latent)
        whole = mape(latent, self.target)
        worst = whole if len(self.parts) == 1 else part_mape(latent, self.target, self.parts).amax(1)
        return whole, worst <= tolerance


def make_problem(
    start: Tensor,
    start_latent: Tensor,
    target: Tensor,
    eps: Tensor,
    parts: tuple[int, ...],
    *,
    below: bool = False,
) -> Problem:
    """Bring the arguments of an attack to one form.

    Raises:
        TypeError: if the target is not a tensor.
        InputError: if the target does not fit, or is not finite.
    """
    if not isinstance(target, Tensor):
        raise TypeError(f"expected target as a tensor, got {type(target).__name__}")
    if target.shape != start_latent.shape:
        raise InputError(
            f"expected target of shape {tuple(start_latent.shape)}, which f gives for start, got {tuple(target.shape)}"
        )
    if not bool(target.isfinite().all()):
        raise InputError("expected a finite target, got NaN or infinity; look at f(x_in)")
    # At least float32: the squares of errors of 16 bits would be zero long before the errors are.
    wide = torch.promote_types(start_latent.dtype, torch.float32)
    flat = as_matrix(target.detach().to(start_latent.device, wide))
    latent = as_matrix(start_latent)
    problem = Problem(start, flat, _weights(flat, latent, parts), eps, flat.new_zeros(len(flat)), parts, below)
    return replace(problem, start_error=problem.error(latent).norm(dim=1))


def sample_seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One seed per sample; a single one serves them all.

    Raises:
        InputError: if the number of seeds is not that of the samples.
        TypeError: if they are no whole numbers.

    >>> sample_seeds(7, 2), sample_seeds([1, 2], 2)
    ((7, 7), (1, 2))
    """
    given: Any = getattr(seed, "tolist", lambda: seed)()  # numpy's and torch's too
    try:
        seeds = tuple(map(index, given)) if isinstance(given, Iterable) else (index(given),) * count
    except TypeError as error:
        raise TypeError(f"expected seed as a whole number, or one per sample, got {seed!r}") from error
    if len(seeds) != count:
        raise InputError(f"expected one seed, or one per sample ({count}), got {len(seeds)}")
    return seeds


def radii(eps: float | Sequence[float] | Tensor, start: Tensor) -> Tensor:
    """Eps as one float64 radius per sample (float32 on devices without it).

    Raises:
        InputError: for a negative or undefined eps, or one whose length is not that of the batch.

    >>> radii(0.5, torch.zeros(2, 3, 1, 1)).tolist()
    [0.5, 0.5]
    """
    wide = torch.float32 if start.device.type == "mps" else torch.float64
    values = torch.as_tensor(eps, dtype=wide, device=start.device).detach()
    if values.ndim == 0:
        values = values.expand(len(start))
    if values.shape != (len(start),):
        raise InputError(f"expected one eps, or one per sample ({len(start)}), got shape {tuple(values.shape)}")
    if not bool((values >= 0).all()):
        raise InputError(f"expected eps >= 0, got {values[~(values >= 0)][0].item():g}")
    return values.contiguous()


def part_lengths(parts: Sequence[int] | None, length: int) -> tuple[int, ...]:
    """The parts, checked against the latent's length; without parts the latent is one.

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


def check_count(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``.

    Raises:
        InputError: with the name and the value.

    >>> check_count("steps", 100, least=1)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether something is one real number.

    >>> is_number(0.1), is_number(torch.tensor([0.1, 0.2]))
    (True, False)
    """
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0)


def _weights(target: Tensor, start_latent: Tensor, parts: Sequence[int]) -> Tensor:
    """Weights (B, K) that put every part on the scale of its own MAPE."""
    lengths = list(parts)
    columns = []
    for t, z in zip(torch.split(target, lengths, dim=1), torch.split(start_latent, lengths, dim=1), strict=True):
        scale, error = (values.abs().amax(1, keepdim=True) for values in (t, z - t))
        # A part whose target is zero, or next to it, has no scale of its own: that of its first error serves.
        scale = torch.where((scale > NEGLIGIBLE * error) | ~error.isfinite(), scale, error)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        columns.append((1 / (scale * math.sqrt(t.shape[1]))).expand_as(t))
    return torch.cat(columns, dim=1)
