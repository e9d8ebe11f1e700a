"""When a rough f will do: where the error is larger than what it is wrong by."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.core.methods.fast.kinks import SoftKinks
from oodattack.core.metrics import as_matrix
from oodattack.core.problem import Problem

MARGIN = 6.0  # times what the rough f is wrong by, that an error must be
SETTLED = 0.05  # of the steps, after which it is measured again: at the start it may be off by a factor of 2 to 3
EVERY = 5  # passes: samples that leave the rough f at the same time do not split the batch

Function = Callable[[Tensor], Tensor]


class TwoPrecisions:
    """f, by its rough twin for samples far from their target.

    The first pass is exact, as is one after 5 % of the steps (in runs of 20 and more), when the path has left the
    start's surroundings; each tells what the twin is wrong by. Until the second, the twin serves for any error that is
    larger than that; then a sample goes through it until, looked at every few passes, its error comes near, or until
    the twin fails it; it does not go back.

    Args:
        f: (B, 3, H, W) -> (B, K).
        rough: about the same, faster.
        count: B.
        device: of the images.
        steps: of the attack.
        kinks: the context of the passes, which is told what samples each is of.

    Attributes:
        left: (B,) which samples have left the twin.
        extra: (B,) forward passes beyond one that the last pass, and what was looked at after it, took. When the twin
            is off the numbers for one sample, all of the batch are passed again.

    >>> both = TwoPrecisions(torch.nn.Flatten(), torch.nn.Flatten(), 1, torch.device("cpu"), 100)
    >>> both(torch.ones(1, 3, 1, 1)).tolist()
    [[1.0, 1.0, 1.0]]
    """

    def __init__(
        self, f: Function, rough: Function, count: int, device: torch.device, steps: int, kinks: SoftKinks | None = None
    ) -> None:
        self.f, self.rough, self.kinks = f, rough, kinks
        self.passes, self.settled = 0, int(SETTLED * steps)
        self.left = torch.zeros(count, dtype=torch.bool, device=device)
        self.extra = torch.zeros(count, dtype=torch.int64, device=device)
        self.noise = torch.zeros(count, device=device)

    @property
    def measuring(self) -> bool:
        """Whether the pass at hand tells what the twin is wrong by."""
        return self.passes in (0, self.settled)

    @property
    def exact(self) -> Tensor:
        """(B,) for which samples the pass at hand is exact, until `look` is done with it."""
        return torch.ones_like(self.left) if self.measuring else self.left

    def __call__(self, x: Tensor) -> Tensor:
        """Latents of images."""
        self.extra.zero_()
        while True:
            z = self._once(x)
            lost = ~(self.exact | as_matrix(z.detach()).isfinite().all(1))
            if not bool(lost.any()):
                return z
            self.left = self.left | lost
            self.extra += 1

    def _once(self, x: Tensor) -> Tensor:
        exact = self.exact
        groups = [(~exact).nonzero().flatten(), exact.nonzero().flatten()]
        parts = []
        for f, rows in zip((self.rough, self.f), groups, strict=True):
            if len(rows) == 0:
                continue
            whole = len(rows) == len(x)
            if self.kinks is not None:
                self.kinks.begin(None if whole else rows, len(x))
            if whole:
                return f(x)
            parts.append(f(x[rows]))
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def look(self, x: Tensor, error: Tensor, leaves: Tensor, now: Problem) -> None:
        """After a pass: measure what the twin is wrong by, if it is time, and decide how each sample is passed next.

        Args:
            x: (B, 3, H, W) the images that were passed.
            error: (B, K) the errors it gave.
            leaves: (B,) which samples look as if they had arrived or fallen off the numbers: the exact f must tell.
            now: what they are attacked for.
        """
        self.left = self.left | leaves
        rows = (~self.left).nonzero().flatten()
        if self.measuring and len(rows):
            self.extra[rows] += 1
            with torch.no_grad():
                rough = now.rows(rows).error(as_matrix(self.rough(x[rows])))
            self.noise[rows] = torch.linalg.vector_norm(rough - error[rows], dim=1).to(self.noise)
        if self.measuring or self.passes % EVERY == 0:
            margin = MARGIN if self.passes >= self.settled else 1.0  # a first look tells little
            self.left = self.left | ~(torch.linalg.vector_norm(error, dim=1) > margin * self.noise)
        self.passes += 1

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        self.left, self.extra, self.noise = (values[rows] for values in (self.left, self.extra, self.noise))
