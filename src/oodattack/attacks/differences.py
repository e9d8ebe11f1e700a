"""Estimate the gradient of a score that autograd cannot differentiate, by differences in the detector's readings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.attacks.batch import Function
from oodattack.core.gradient import Pullback
from oodattack.core.metrics import as_matrix

DIRECTIONS = 32  # maximum number of directions along which differences are taken
RELATIVE_STEP = 0.01  # step of the differences, relative to the largest reading


@dataclass(frozen=True)
class Differences:
    """The gradient of judge(reads(x)) for a judge that autograd cannot differentiate.

    Differences of the judge are taken along random orthonormal directions in the space of its readings, and the result
    is pulled back through the network by autograd, at the cost of one pass of the network and 2 * `DIRECTIONS`
    evaluations of the judge. This is SPSA's idea (Spall 1992; Section IV of the paper) in tens or hundreds of
    dimensions instead of thousands of pixels. Orthonormal directions give the projection of the gradient onto their
    span at its true length, on which Polyak's step relies.

    Attributes:
        reads: images (B, 3, H, W) to readings (B, K).
        judge: readings (B, K) to ranks (B,).
        passes: gradient evaluations of the network per call.
        forwards: further forward passes per call.
    """

    reads: Function
    judge: Function
    passes: int = 1
    forwards: int = 0

    def __call__(self, f: Function, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Pullback]:  # noqa: ARG002 -- part of the protocol
        """See `oodattack.core.gradient.Gradient`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            reads = as_matrix(self.reads(x))
        z = reads.detach()
        with torch.no_grad():
            scores = as_matrix(self.judge(z))

        def pullback(weights: Tensor) -> Tensor:
            projection = self._projection(z, generators)
            (gradient,) = torch.autograd.grad(reads, x, weights.to(projection) * projection)
            return gradient

        return scores, pullback

    @torch.no_grad()
    def _projection(self, z: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, K): the judge's gradients, projected onto the span of the directions."""
        count = min(DIRECTIONS, z.shape[1])
        gauss = torch.stack([torch.randn(z.shape[1], count, generator=g) for g in generators]).double()
        directions = torch.linalg.qr(gauss).Q.transpose(1, 2).to(z)  # (B, count, K); on the CPU, as MPS has no QR
        step = (RELATIVE_STEP * z.abs().amax(1)).clamp_min(torch.finfo(z.dtype).tiny)[:, None, None]
        ahead = self.judge((z[:, None] + step * directions).flatten(0, 1))
        behind = self.judge((z[:, None] - step * directions).flatten(0, 1))
        along = (ahead - behind).view(len(z), count, 1).to(z) / (2 * step)
        projection: Tensor = (along * directions).sum(1)
        return projection
