"""`attack` with a progress bar, which the core, importing nothing but torch, cannot draw."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from oodattack.core import attack as core
from oodattack.core.algorithm import Callback
from oodattack.core.gradient import Function, Gradient
from oodattack.core.methods import Method
from oodattack.core.result import AttackResult


def attack(
    f: Function,
    start: torch.Tensor,
    target: torch.Tensor | None,
    *,
    eps: float | Sequence[float] | torch.Tensor,
    norm: float = 2,
    steps: int = 100,
    method: str | type[Method] = "fast",
    step_size: float | None = None,
    restarts: int = 1,
    tolerance: float = 0.0,
    seed: int | Sequence[int] = 0,
    pixels: int | None = None,
    grid_steps: int | None = None,
    gradient: str | Gradient = "autograd",
    parts: Sequence[int] | None = None,
    initial: torch.Tensor | None = None,
    below: bool = False,
    check: bool = True,
    callback: Callback | None = None,
    progress: bool = False,
) -> AttackResult:
    """`oodattack.core.attack.attack`, which describes the other arguments, with ``progress``."""
    shown: AbstractContextManager[Callback | None] = _bar(steps, restarts) if progress else nullcontext()
    with shown as bar:

        def report(step: int, figure: torch.Tensor) -> None:
            if callback is not None:
                callback(step, figure)
            if bar is not None:
                bar(step, figure)

        return core.attack(
            f, start, target, eps=eps, norm=norm, steps=steps, method=method, step_size=step_size, restarts=restarts,
            tolerance=tolerance, seed=seed, pixels=pixels, grid_steps=grid_steps, gradient=gradient, parts=parts,
            initial=initial, below=below, check=check, callback=callback if bar is None else report,
        )  # fmt: skip


def _bar(steps: int, restarts: int) -> AbstractContextManager[Callback]:
    from rich.console import Console

    from oodattack.api.progress import attack_bar

    return attack_bar(Console(stderr=True), steps, restarts)


# Who asks for help gets all of it.
attack.__doc__ = (core.attack.__doc__ or "").replace(
    "\n\n    Returns:",
    """
        progress: whether to show a progress bar on standard error, with the median MAPE (or score) of the batch. It
            appears in terminals and, if ipywidgets is installed, in notebooks; no result depends on it.

    Returns:""",
    1,
)
