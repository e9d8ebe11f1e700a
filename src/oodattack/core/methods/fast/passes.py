"""Two precisions: the approximate twin of f is used while a sample's error is larger than the twin's own."""

from contextlib import nullcontext

import torch
from torch import Tensor

from oodattack.core.gradient import Function, Gradient, Pass
from oodattack.core.methods.fast.kinks import SoftKinks
from oodattack.core.metrics import as_matrix
from oodattack.core.problem import Problem

SAFE_RATIO = 6.0  # a sample's error must exceed this multiple of the twin's error; until the second measurement, 1
SETTLED_AFTER = 0.05  # fraction of the steps before the second measurement; the first is off by a factor of up to 3
CHECK_EVERY = 5  # passes between two checks: samples that leave the twin in the same pass do not split the batch


class TwoPrecisions:
    """f, computed by its rough twin for samples that are far from their target.

    The twin's error is measured after two exact passes: the first one, and one after 5 % of the steps (in attacks of 20
    or more), when the path has left the neighbourhood of the start. Until the second measurement, the twin is used for
    any sample whose error is larger than the twin's. From then on a sample uses the twin until its error comes close to
    the twin's, which is checked every few passes, or until the twin fails on it. It never returns to the twin.

    Args:
        f: (B, 3, H, W) -> (B, K).
        rough: a faster approximation of f.
        count: B, the number of samples.
        device: the device of the images.
        steps: the number of steps of the attack.

    Attributes:
        left: (B,) which samples have left the twin, and use f itself.

    >>> from oodattack.core.gradient import Autograd
    >>> both = TwoPrecisions(torch.nn.Flatten(), torch.nn.Flatten(), 1, torch.device("cpu"), steps=100)
    >>> both.look(torch.ones(1, 3, 1, 1), Autograd(), [], None).latent
    tensor([[1., 1., 1.]])
    """

    def __init__(self, f: Function, rough: Function, count: int, device: torch.device, steps: int) -> None:
        self.f, self.rough = f, rough
        self.passes, self.settled = 0, int(SETTLED_AFTER * steps)
        self.left = torch.zeros(count, dtype=torch.bool, device=device)
        self.twin_error = torch.zeros(count, device=device)  # lengths of the twin's (weighted) errors
        self.uncounted = torch.zeros(count, dtype=torch.int64, device=device)  # forward passes not in any `Pass` yet

    def look(self, x: Tensor, gradient: Gradient, generators: list[torch.Generator], kinks: SoftKinks | None) -> Pass:
        """Evaluate f or its twin, depending on the sample.

        If the twin is not finite for some sample, the whole batch is passed again, with that sample through f.
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
        forwards = self.uncounted + (gradient.forwards + repeats)
        self.uncounted = torch.zeros_like(self.uncounted)
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
        """After a pass, choose f or the twin for each sample's next pass; measure the twin's error when due.

        Args:
            x: (B, 3, H, W) the images.
            error: (B, K) their errors.
            finished: (B,) which samples seem to be at their target or have a non-finite gradient; f itself must confirm
                it.
            problem: the problem of these samples.
        """
        self.left = self.left | finished
        rows = (~self.left).nonzero().flatten()
        if self._measuring and len(rows):
            self.uncounted[rows] += 1
            with torch.no_grad():
                rough = problem.rows(rows).error(as_matrix(self.rough(x[rows])))
            self.twin_error[rows] = torch.linalg.vector_norm(rough - error[rows], dim=1).to(self.twin_error)
        if self._measuring or self.passes % CHECK_EVERY == 0:
            ratio = SAFE_RATIO if self.passes >= self.settled else 1.0
            self.left = self.left | ~(torch.linalg.vector_norm(error, dim=1) > ratio * self.twin_error)
        self.passes += 1

    @property
    def _exact(self) -> Tensor:
        """(B,) which samples go through f itself in the current pass."""
        return torch.ones_like(self.left) if self._measuring else self.left

    @property
    def _measuring(self) -> bool:
        """Whether the current pass is exact for all samples, to measure the twin's error."""
        return self.passes in (0, self.settled)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        self.left, self.twin_error, self.uncounted = self.left[rows], self.twin_error[rows], self.uncounted[rows]
