"""The arguments of `attack`, checked in one place before f is called."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor

from oodattack.core.ball import check_norm
from oodattack.core.checks import check_pixels
from oodattack.core.errors import InputError
from oodattack.core.gradient import Gradient, get_gradient
from oodattack.core.methods import Method, get_method
from oodattack.core.pixels import check_grid


@dataclass(frozen=True)
class Arguments:
    """The checked arguments of `attack`, each in one form.

    Attributes:
        start: (B, 3, H, W), contiguous and detached.
        eps: (B,) radii.
        norm: 1.0, 2.0 or infinity.
        method: the class.
        gradient: the source of gradients.
        step_size: (B,) alpha.
        seeds: one per sample.
        initial: (B, 3, H, W) or None.
        grid_steps: gradient evaluations on the 8-bit grid; 0 without ``pixels=256``.
        parts: lengths of the parts of the latent, or None for one part.
    """

    start: Tensor
    eps: Tensor
    norm: float
    method: type[Method]
    gradient: Gradient
    step_size: Tensor
    seeds: tuple[int, ...]
    initial: Tensor | None
    grid_steps: int
    parts: tuple[int, ...] | None


def check_arguments(
    start: Tensor,
    target: Tensor | None,
    *,
    eps: float | Sequence[float] | Tensor,
    norm: float,
    steps: int,
    method: str | type[Method],
    step_size: float | None,
    restarts: int,
    tolerance: float,
    seed: int | Sequence[int],
    pixels: int | None,
    grid_steps: int | None,
    gradient: str | Gradient,
    parts: Sequence[int] | None,
    initial: Tensor | None,
    below: bool,
    callback: object,
) -> Arguments:
    """Check the arguments of `oodattack.attack`, which describes them, and bring each to one form.

    Raises:
        InputError: for an invalid value; the message names the remedy.
        TypeError: for an argument of the wrong type.
    """
    norm, chosen, source = check_norm(norm), get_method(method), get_gradient(gradient)
    check_pixels(start, "start")
    check_count("steps", steps, least=1)
    check_count("restarts", restarts, least=1)
    if grid_steps is not None:
        check_count("grid_steps", grid_steps, least=0)
        if pixels is None:
            raise InputError("expected grid_steps with pixels=256, got pixels=None: floating point has no grid")
        if grid_steps and not source.passes:
            raise InputError(f"expected no grid_steps with gradient='spsa', which rounds, got {grid_steps}")
    if not (is_number(tolerance) and tolerance >= 0):
        raise InputError(f"expected a tolerance >= 0 (a MAPE: 0.001 is 0.1 %), got {tolerance!r}")
    if pixels not in (None, 256):
        raise InputError(f"expected pixels=256 (the 8-bit grid) or None (floating point), got {pixels!r}")
    if step_size is not None and not (is_number(step_size) and 0 < step_size < math.inf):
        raise InputError(f"expected a positive step_size, one for all samples, got {step_size!r}")
    if not isinstance(below, bool):
        raise TypeError(f"expected below as True or False, got {below!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"expected callback as a function of the step and the MAPE, or None, got {callback!r}")
    lengths = _lengths(parts)
    _check_target(target, tolerance=tolerance, parts=lengths, below=below)
    # A clone, because autograd rejects tensors made in inference mode. Contiguous, because the loop's arithmetic on
    # flattened images would otherwise copy them in each step (those permuted from (H, W, 3), for instance).
    start, radii = start.detach().clone(memory_format=torch.contiguous_format), _radii(eps, start)
    if initial is not None:
        check_pixels(initial, "initial")
        if initial.shape != start.shape:
            raise InputError(f"expected initial of shape {tuple(start.shape)}, got {tuple(initial.shape)}")
        initial = initial.detach().to(start).contiguous()
    if pixels is not None:
        check_grid(start, radii, norm)
    alpha = chosen.default_step_size(radii, start[0].numel(), norm, steps)
    if step_size is not None:
        alpha = torch.full_like(alpha, float(step_size))
    on_grid = 0 if pixels is None else chosen.default_grid_steps(steps) if grid_steps is None else grid_steps
    return Arguments(
        start, radii, norm, chosen, source, alpha, sample_seeds(seed, len(start)), initial, on_grid, lengths
    )


def sample_seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One seed per sample; a single seed is used for all of them.

    Raises:
        InputError: if the number of seeds is not the number of samples.
        TypeError: if they are not whole numbers.

    >>> sample_seeds(7, 2), sample_seeds([1, 2], 2)
    ((7, 7), (1, 2))
    """
    seeds = _whole_numbers(seed)
    if seeds is None:
        raise TypeError(f"expected seed as a whole number, or one per sample, got {seed!r}")
    if isinstance(seeds, int):
        return (seeds,) * count
    if len(seeds) != count:
        raise InputError(f"expected one seed, or one per sample ({count}), got {len(seeds)}")
    return seeds


def check_count(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``.

    Raises:
        InputError: with the name and the value.

    >>> check_count("steps", 100, least=1)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a single real number.

    >>> is_number(0.1), is_number(torch.tensor([0.1, 0.2]))
    (True, False)
    """
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0)


def _whole_numbers(value: Any) -> int | tuple[int, ...] | None:
    """A whole number or several, also from NumPy arrays and tensors; None for anything else."""
    if isinstance(value, str):
        return None
    try:
        return index(value)
    except TypeError:
        pass
    try:
        return tuple(map(index, value))
    except TypeError:
        return None


def _lengths(parts: Any) -> tuple[int, ...] | None:
    """The parts as a tuple."""
    if parts is None:
        return None
    lengths = _whole_numbers(parts)
    if not isinstance(lengths, tuple):
        raise TypeError(f"expected parts as the lengths of the latent's parts, such as (512, 256), got {parts!r}")
    return lengths


def _check_target(target: Tensor | None, *, tolerance: float, parts: tuple[int, ...] | None, below: bool) -> None:
    """Raise unless the target is a finite tensor, or None without the settings that only a target can have."""
    if target is None:
        for name, given in (("tolerance", tolerance or None), ("parts", parts), ("below=True", below or None)):
            if given is not None:
                raise InputError(
                    f"expected no {name} with target=None, which lowers a score; drop it, or give a target"
                )
    elif not isinstance(target, Tensor):
        raise TypeError(f"expected target as a tensor, or None to lower a score, got {type(target).__name__}")
    elif not bool(target.isfinite().all()):
        raise InputError("expected a finite target, got NaN or infinity; check f(x_in)")


def _radii(eps: float | Sequence[float] | Tensor, start: Tensor) -> Tensor:
    """Eps as one float64 radius per sample (float32 on devices without float64)."""
    wide = torch.float32 if start.device.type == "mps" else torch.float64
    try:
        values = torch.as_tensor(eps, dtype=wide, device=start.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"expected eps as a number, or one per sample, got {eps!r}") from error
    if values.ndim == 0:
        values = values.expand(len(start))
    if values.shape != (len(start),):
        raise InputError(f"expected one eps, or one per sample ({len(start)}), got shape {tuple(values.shape)}")
    if not bool((values >= 0).all()):
        raise InputError(f"expected eps >= 0, got {values[~(values >= 0)][0].item():g}")
    return values.contiguous()
