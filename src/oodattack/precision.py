"""When a rough f will do: where the error is larger than what it is wrong by."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.kinks import SoftKinks
from oodattack.metrics import as_matrix
from oodattack.problem import Problem

MARGIN = 4.0  # times what the rough f is wrong by, that an error must be

Function = Callable[[Tensor], Tensor]


class TwoPrecisions:
    """f, by its rough twin for samples far from their target.

    The first pass is exact, and tells what the twin is wrong by at that image. From then on a sample goes through the
    twin until its error comes near to that, or the twin fails it; it does not go back.

    Args:
        f: (B, 3, H, W) -> (B, K).
        rough: about the same, faster.
        count: B.
        device: of the images.
        kinks: the context of the passes, which is told what samples each is of.

    Attributes:
        exact: (B,) for which samples the pass at hand, or the last, is exact.
        repeated: how many forward passes more than one the last call took, because the twin was off the numbers.

    >>> both = TwoPrecisions(torch.nn.Flatten(), torch.nn.Flatten(), 1, torch.device("cpu"))
    >>> both(torch.ones(1, 3, 1, 1)).tolist()
    [[1.0, 1.0, 1.0]]
    """

    def __init__(
        self, f: Function, rough: Function, count: int, device: torch.device, kinks: SoftKinks | None = None
    ) -> None:
        self.f, self.rough, self.kinks = f, rough, kinks
        self.exact = torch.ones(count, dtype=torch.bool, device=device)
        self.noise: Tensor | None = None
        self.repeated = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Latents of images."""
        self.repeated = 0
        while True:
            z = self._once(x)
            lost = ~(self.exact | as_matrix(z.detach()).isfinite().all(1))
            if not bool(lost.any()):
                return z
            self.exact = self.exact | lost
            self.repeated += 1

    def _once(self, x: Tensor) -> Tensor:
        groups = [(~self.exact).nonzero().flatten(), self.exact.nonzero().flatten()]
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
        """Decide how each sample is passed next, after a pass.

        Args:
            x: (B, 3, H, W) the images that were passed.
            error: (B, K) the errors it gave.
            leaves: (B,) which samples look as if they had arrived or fallen off the numbers: the exact f must tell.
            now: what they are attacked for.
        """
        size = torch.linalg.vector_norm(error, dim=1)
        if self.noise is None:
            with torch.no_grad():
                self.noise = torch.linalg.vector_norm(now.error(as_matrix(self.rough(x))) - error, dim=1)
            self.exact = torch.zeros_like(self.exact)
        self.exact = self.exact | leaves | ~(size > MARGIN * self.noise)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        self.exact = self.exact[rows]
        if self.noise is not None:
            self.noise = self.noise[rows]
