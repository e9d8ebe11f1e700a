"""APGD and DDN of adv-lib 0.2.8 (Rony), with the task of matching a latent written as a classifier of two classes.

adv-lib requires visdom, a web server for plots that these attacks do not use and that current setuptools cannot build.
Install adv-lib alone, ``pip install --no-deps adv-lib==0.2.8``; an empty module stands in for a missing visdom.
"""

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from oodattack.core.metrics import mape

AVAILABLE = importlib.util.find_spec("adv_lib") is not None
SCALE = 1e12  # of the logits: their cross-entropy, log(1 + exp(L)), equals L in float32 for L > 20 only


class MatchOrNot(nn.Module):
    """A classifier of two classes: class 0 is more likely the smaller the squared distance to the target is.

    Its logits are ``(-s L, 0)``, where L is ``‖f(x) - t‖^2`` relative to ``‖t‖^2``. The cross-entropy of class 0 grows
    with L, and APGD uses only normalised gradients and the order of losses.
    """

    def __init__(self, f: nn.Module, target: Tensor) -> None:
        super().__init__()
        self.f, self.target = f, target

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, 2)."""
        loss = (self.f(x) - self.target).square().sum(1) / self.target.square().sum(1)
        return torch.stack([-SCALE * loss, torch.zeros_like(loss)], 1)


class Reached(nn.Module):
    """A classifier of two classes: class 0 if the MAPE is below the tolerance.

    The gradient is that of the squared distance, as for `MatchOrNot`: that of the MAPE is no guide near the target.
    """

    def __init__(self, f: nn.Module, target: Tensor, tolerance: float) -> None:
        super().__init__()
        self.f, self.target, self.tolerance = f, target, tolerance

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, 2)."""
        z = self.f(x)
        loss = (z - self.target).square().sum(1)
        logit = (self.tolerance - mape(z, self.target) + loss).detach() - loss
        return torch.stack([logit, torch.zeros_like(logit)], 1)


def apgd(f: nn.Module, start: Tensor, target: Tensor, *, eps: float, norm: float, steps: int, seed: int) -> Tensor:
    """Auto-PGD (Croce & Hein 2020) from its random start: the best iterate (B, 3, H, W) of ``steps`` gradients."""
    with _imports():
        from adv_lib.attacks.auto_pgd import _apgd
    count = len(start)
    with torch.random.fork_rng(devices=[start.device] if start.device.type == "cuda" else []):
        torch.manual_seed(seed)
        image: Tensor = _apgd(
            MatchOrNot(f, target),
            start,
            torch.zeros(count, dtype=torch.long, device=start.device),
            torch.full((count,), eps, device=start.device),
            norm,
            targeted=True,
            n_iter=steps - 1,  # the random start is evaluated too
            loss_function="ce",
        )[0]
    return image


def ddn(f: nn.Module, start: Tensor, target: Tensor, *, tolerance: float, steps: int) -> Tensor:
    """Decoupled direction and norm (Rony et al. 2019): the nearest 8-bit images (B, 3, H, W) within the tolerance.

    Where none was found, the start. Its radius changes by 1 % a step; with 5 %, the default, it grows to that of the
    pixel box in 80 steps without success.
    """
    with _imports():
        from adv_lib.attacks.decoupled_direction_norm import ddn as search
    labels = torch.zeros(len(start), dtype=torch.long, device=start.device)
    reached = Reached(f, target, tolerance)
    image: Tensor = search(reached, start, labels, targeted=True, steps=steps, levels=256, γ=0.01)
    return image


@contextlib.contextmanager
def _imports() -> Iterator[None]:
    """A stand-in for visdom, and no warning about the version check that adv-lib takes from distutils."""
    if "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None:
        sys.modules["visdom"] = ModuleType("visdom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
