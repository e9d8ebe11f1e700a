"""Two precisions: f's approximate twin serves while the error is larger than what the twin gets wrong."""

from contextlib import nullcontext

import torch
from torch import Tensor

from oodattack.core.gradient import Function, Gradient, Pass
from oodattack.core.methods.fast.kinks import SoftKinks
from oodattack.core.metrics import as_matrix
from oodattack.core.problem import Problem

SAFE_RATIO = 6.0  # the error must exceed this many times the twin's own error; at the first look, once is enough
SETTLED_AFTER = 0.05  # share of the steps after which the twin's error is measured again: the first is off by up to 3
CHECK_EVERY = 5  # passes between two checks: samples that leave the twin together do not split the batch


class TwoPrecisions:
    """f, computed by its rough twin for samples far from their target.

    The first pass is exact, and so is one after 5 % of the steps (in runs of 20 and more), when the path has left the
    surroundings of the start; after each, the twin's error is measured. Until the second, the twin serves for any
    larger error. From then on a sample goes through the twin until its error comes close to the twin's, which is
    checked every few passes, or until the twin fails on it. It never returns to the twin.

    Args:
        f: (B, 3, H, W) -> (B, K).
        rough: an approximation of f that is faster.
        count: B.
        device: of the images.
        steps: of the attack.

    Attributes:
        left: (B,) which samples have left the twin.

    >>> from oodattack.core.gradient import Autograd
    >>> both = TwoPrecisions(torch.nn.Flatten(), torch.nn.Flatten(), 1, torch.device("cpu"), steps=100)
    >>> both.look(torch.ones(1, 3, 1, 1), Autograd(), [], None).latent
    tensor([[1., 1., 1.]])
    """

    def __init__(self, f: Function, rough: Function, count: int, device: torch.device, steps: int) -> None:
        self.f, self.rough = f, rough
        self.passes, self.settled = 0, int(SETTLED_AFTER * steps)
        self.left = torch.zeros(count, dtype=torch.bool, device=device)
        self.noise = torch.zeros(count, device=device)  # length of the twin's error, weighted as the problem's errors
        self.unpaid = torch.zeros(count, dtype=torch.int64, device=device)  # forward passes not in any `Pass` yet

    def look(self, x: Tensor, gradient: Gradient, generators: list[torch.Generator], kinks: SoftKinks | None) -> Pass:
        """Evaluate f or its twin, sample by sample.

        Where the twin is not finite for some sample, the whole batch is passed again, that sample through f.
        """
        repeats = 0

        def mixed(x: Tensor) -> Tensor:
            nonlocal repeats
            while True:
                latent = self._mixed(x, kinks)
                failed = ~(self._exact | as_matrix(latent.detach()).isfinite().all(1))
                if not bool(failed.any()):
                    return latent
                self.left = self.left | failed
                repeats += 1

        with kinks or nullcontext():
            latent, pullback = gradient(mixed, x, generators)
        forwards = self.unpaid + (gradient.forwards + repeats)
        self.unpaid = torch.zeros_like(self.unpaid)
        return Pass(latent, self._exact, gradient.passes, forwards, pullback)

    def _mixed(self, x: Tensor, kinks: SoftKinks | None) -> Tensor:
        exact = self._exact
        groups = [(~exact).nonzero().flatten(), exact.nonzero().flatten()]
        parts = []
        for f, rows in zip((self.rough, self.f), groups, strict=True):
            if len(rows) == 0:
                continue
            whole = len(rows) == len(x)
            if kinks is not None:
                kinks.begin(None if whole else rows, len(x))
            if whole:
                return f(x)
            parts.append(f(x[rows]))
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def settle(self, x: Tensor, error: Tensor, finished: Tensor, problem: Problem) -> None:
        """After a pass: decide how each sample is passed next; measure the twin's error when that is due.

        Args:
            x: (B, 3, H, W) the images.
            error: (B, K) their errors.
            finished: (B,) which samples seem to have arrived or have a broken gradient: only f itself can tell.
            problem: of these samples.
        """
        self.left = self.left | finished
        rows = (~self.left).nonzero().flatten()
        if self._measuring and len(rows):
            self.unpaid[rows] += 1
            with torch.no_grad():
                rough = problem.rows(rows).error(as_matrix(self.rough(x[rows])))
            self.noise[rows] = torch.linalg.vector_norm(rough - error[rows], dim=1).to(self.noise)
        if self._measuring or self.passes % CHECK_EVERY == 0:
            ratio = SAFE_RATIO if self.passes >= self.settled else 1.0
            self.left = self.left | ~(torch.linalg.vector_norm(error, dim=1) > ratio * self.noise)
        self.passes += 1

    @property
    def _exact(self) -> Tensor:
        """(B,) for which samples the pass at hand is by f itself."""
        return torch.ones_like(self.left) if self._measuring else self.left

    @property
    def _measuring(self) -> bool:
        """Whether the pass at hand is exact, to measure the twin's error."""
        return self.passes in (0, self.settled)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        self.left, self.noise, self.unpaid = self.left[rows], self.noise[rows], self.unpaid[rows]
