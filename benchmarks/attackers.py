"""The methods under comparison, with the cost of each counted at the encoder.

`paper` is run as published (step eps/100) and with a tuned step; plain PGD and ART's attack with a tuned step only;
`fast` with its defaults. Tuning favours the tuned method: for each case and budget, the best step of a grid is chosen
by the reported metric itself (median float MAPE), and the cost of that search is not counted.

ART (Adversarial Robustness Toolbox) supports Linf balls only. Its `FeatureAdversariesPyTorch` is run in the mode of
projected gradient descent (``optimizer=None``). The other mode does not stay in the ball: it clips to the ball *before*
the optimizer's step, and only to [0, 1] after it. With ART 1.20.1, delta = 0.05 and 35 steps of Adam, it returned an
Linf distance of 0.063 at lr=0.01 and of 0.16 at lr=0.1 (`tests/test_benchmarks.py` repeats this measurement). The layer
is passed to ART by name: with a number, ART leaves an additional hook on the model in every step and slows down. ART
also runs x_in through the encoder in every step, which is counted as a forward pass.
"""

import importlib.util
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.inputs import Case
from oodattack import attack
from oodattack.core.methods.methods import get_method
from oodattack.core.pixels import dequantize, to_grid
from oodattack.speed.prepared import Prepared

Run = Callable[[nn.Module, Case, slice, int, float | None, int | None], Tensor]
"""(f, case, rows, steps, step size or None for the method's own, 256 or None) -> images (B, 3, H, W)."""

STEP_FACTORS = (1 / 30, 1 / 10, 1 / 3, 1.0, 3.0, 10.0, 30.0)  # multiples of a method's own step, for tuning


class Counter(nn.Module):
    """Wraps f and counts the samples of its forward and backward passes, including those of its bfloat16 twin.

    >>> f = Counter(nn.Flatten())
    >>> f(torch.ones(2, 3, requires_grad=True)).sum().backward()
    >>> _ = f(torch.ones(2, 3))
    >>> f.forwards, f.backwards
    (4, 2)
    """

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f
        self.forwards = self.backwards = self.through_twin = 0

    @property
    def rough_twin(self) -> Callable[[Tensor], Tensor] | None:
        """The twin of f, with its passes counted too, if f is `Prepared` and has one."""
        twin = self.f.rough_twin if isinstance(self.f, Prepared) else None
        return None if twin is None else partial(self._pass, twin, rough=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute f(x), counting the work actually done rather than what a method reports."""
        return self._pass(self.f, x)

    def _pass(self, f: Callable[[Tensor], Tensor], x: Tensor, *, rough: bool = False) -> Tensor:
        latent = f(x)
        self.through_twin += len(x) if rough and latent.requires_grad else 0
        self.forwards += len(x)
        if latent.requires_grad:
            latent.register_hook(partial(self._passed, len(x)))  # type: ignore[no-untyped-call]
        return latent

    def _passed(self, count: int, _gradient: Tensor) -> None:
        self.backwards += count


@dataclass(frozen=True)
class Attacker:
    """One competitor of the comparison.

    Attributes:
        label: its label in the tables.
        name: the attack; attackers with the same name share their runs.
        run: runs the attack.
        step_sizes: the step sizes to try, in ascending order, of which the best is reported; None is the method's own.
    """

    label: str
    name: str
    run: Run
    step_sizes: tuple[float | None, ...] = (None,)


def attackers(case: Case) -> list[Attacker]:
    """All methods that can attack this case; ART's requires the Linf norm and an installed ART."""
    found = [
        Attacker("paper", "paper", partial(_ours, "paper"), (_own_step("paper", case),)),
        Attacker("paper-tuned", "paper", partial(_ours, "paper"), _grid("paper", case)),
        Attacker("plain-tuned", "plain", partial(_ours, "plain"), _grid("plain", case)),
        Attacker("fast", "fast", partial(_ours, "fast")),
    ]
    if case.norm == math.inf and importlib.util.find_spec("art") is not None:
        found.append(Attacker("art-tuned", "art", _art, tuple(case.eps / part for part in (20, 10, 4))))
    return found


def _own_step(method: str, case: Case) -> float:
    """The method's own step size: eps/100 for `paper` and eps/20 for `plain` (L2 and Linf)."""
    radius = torch.tensor([case.eps], dtype=torch.float64)
    any_budget = 1  # the step size of neither method depends on it
    return float(get_method(method).step_size(radius, case.start[0].numel(), case.norm, any_budget))


def _grid(method: str, case: Case) -> tuple[float, ...]:
    return tuple(factor * _own_step(method, case) for factor in STEP_FACTORS)


def _ours(
    method: str, f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None, pixels: int | None
) -> Tensor:
    # The grid search is part of the budget: every method has the same total number of evaluations.
    grid_steps = None if pixels is None else min(50, steps // 3) if method == "fast" else 0
    return attack(
        f,
        case.start[rows],
        case.target[rows],
        eps=case.eps,
        norm=case.norm,
        steps=steps - (grid_steps or 0),
        method=method,
        step_size=step_size,
        seed=case.seeds[rows],
        pixels=pixels,
        grid_steps=grid_steps,
        parts=case.encoder.parts,
        check=False,  # checked once, when the case was loaded
    ).image


def _art(f: nn.Module, case: Case, rows: slice, steps: int, step_size: float | None, pixels: int | None) -> Tensor:
    start = case.start[rows]
    found = art_images(f, start, case.x_in[rows], case.eps, max_iter=steps, step_size=step_size)
    if pixels is None:
        return found
    eps = torch.full((len(start),), case.eps, dtype=torch.float64)
    return dequantize(to_grid(found.cpu(), start.cpu(), eps, case.norm)).to(start)


def art_images(
    f: nn.Module,
    start: Tensor,
    x_in: Tensor,
    eps: float,
    *,
    max_iter: int,
    step_size: float | None = None,
    optimizer: type[torch.optim.Optimizer] | None = None,
    lr: float | None = None,
) -> Tensor:
    """Run ART's `FeatureAdversariesPyTorch`; with an optimizer, the images (B, 3, H, W) may leave the ball."""
    from art.attacks.evasion import FeatureAdversariesPyTorch
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        nn.Sequential(OrderedDict(latent=f)),
        loss=None,
        input_shape=tuple(start.shape[1:]),
        nb_classes=2,  # required, but not used by this attack
        clip_values=(0.0, 1.0),
        device_type="cpu" if start.device.type == "cpu" else "gpu",
    )
    found = FeatureAdversariesPyTorch(
        estimator,
        delta=float(eps),
        optimizer=optimizer,
        optimizer_kwargs=None if lr is None else {"lr": lr},
        layer="latent",
        max_iter=max_iter,
        batch_size=len(start),
        step_size=step_size,
        verbose=False,
    ).generate(start.cpu().numpy(), x_in.cpu().numpy())
    return torch.from_numpy(found).to(start)
