"""When a rough f will do: where the error is larger than what it is wrong by."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.metrics import as_matrix
from oodattack.problem import Problem

MARGIN = 4.0  # times what the rough f is wrong by, that an error must be

Function = Callable[[Tensor], Tensor]


class TwoPrecisions:
    """f, by its rough twin for samples far from their target.

    The first pass is exact, and tells what the twin is wrong by at that image. From then on a sample goes through the
    twin until its error comes near to that; it does not go back.

    Args:
        f: (B, 3, H, W) -> (B, K).
        rough: about the same, faster.

    Attributes:
        exact: (B,) for which samples the pass at hand is exact; None is all, in the first.

    >>> both = TwoPrecisions(torch.nn.Flatten(), torch.nn.Flatten())
    >>> both(torch.ones(1, 3, 1, 1)).tolist()
    [[1.0, 1.0, 1.0]]
    """

    def __init__(self, f: Function, rough: Function) -> None:
        self.f, self.rough = f, rough
        self.exact: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Latents of images."""
        if self.exact is None or bool(self.exact.all()):
            return self.f(x)
        if not bool(self.exact.any()):
            return self.rough(x)
        order = self.exact.argsort(stable=True)  # the rough ones first
        rough, exact = order.tensor_split([int((~self.exact).sum())])
        return torch.cat([self.rough(x[rough]), self.f(x[exact])])[order.argsort()]

    def look(self, x: Tensor, error: Tensor, arrived: Tensor, now: Problem) -> None:
        """Decide how each sample is passed next, after a pass.

        Args:
            x: (B, 3, H, W) the images that were passed.
            error: (B, K) the errors it gave.
            arrived: (B,) which samples look as if they had arrived: only the exact f can tell.
            now: what they are attacked for.
        """
        size = torch.linalg.vector_norm(error, dim=1)
        if self.exact is None:
            with torch.no_grad():
                self.noise = torch.linalg.vector_norm(now.error(as_matrix(self.rough(x))) - error, dim=1)
            self.exact = torch.zeros_like(arrived)
        self.exact = self.exact | arrived | ~(size > MARGIN * self.noise)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        if self.exact is not None:
            self.exact, self.noise = self.exact[rows], self.noise[rows]
