"""Whitening: errors in directions of the latent that have hardly moved get a larger weight.

One backward pass gives J_f^T w for one weighting w of the latent's errors. With w = e, the error itself, it is steepest
descent on ‖e‖^2, and the few directions of the latent that every pixel moves dominate those that few pixels move: soon
the remaining error lies in the slow directions. The path of the attack shows how fast each direction moves, at no
further evaluation. Where no direction is slow, as in networks of a few layers, the error falls fast without whitening
and is better left unweighted.
"""

import torch
from torch import Tensor

from oodattack.core.methods.eigen import decompose

MEMORY = 64  # differences in a covariance; one more would have 4 % of the newest one's weight
DECAY = 0.95  # of a difference's weight in the covariance, per step
RENEWAL = 0.5  # S is decomposed again once this fraction of the number of differences in it has been added
RING_ROWS = MEMORY + int(RENEWAL * MEMORY)  # differences kept: those in S, and those added since
RAW_BELOW, WHITENED_ABOVE = 0.8, 0.9  # per-step error ratio: raw below the first, whitened above the second
FLOOR = 0.025  # variance assumed for directions that never moved, as a fraction of the covariance's mean eigenvalue


class Whitening:
    """Errors divided by the square root of how much the latent moves in their direction.

    With C the sum of ``DECAY^age * y y^T`` over the differences y of successive latents, the weighted error is ``S e``,
    where ``S = (I + C / floor)^(-1/2)`` and the floor is ``FLOOR * tr C / K``. It has the form of full-matrix AdaGrad
    (Duchi et al. 2011) or Shampoo (Gupta et al. 2018), in the latent space and with differences instead of gradients.
    The rank of C is at most the number of differences kept, so only a matrix of that size is decomposed, however long
    the latent is.

    S is decomposed again once the number of new differences reaches half the number that it was built from. Until then
    each new one is a rank-one correction: with S the root so far, ``S S^T = (I + C / floor)^-1``, and ``u = S^T y``,
    the next root is ``S (I + u u^T / floor)^(-1/2)``, which is a root of the matrix with y, though not the symmetric
    one. Meanwhile the floor decays with the old differences, and rises only for a difference larger than all of them.

    >>> whitening = Whitening()
    >>> _ = whitening(torch.tensor([[10.0, 1.0]]))
    >>> fast, slow = whitening(torch.tensor([[1.0, 1.0]]))[0].tolist()  # the first has moved, the second has not
    >>> round(fast, 2), slow
    (0.11, 1.0)
    """

    def __init__(self) -> None:
        self.calls = self.differences_in_root = self.corrections = 0

    def __call__(self, error: Tensor) -> Tensor:
        """Whitened errors (B, K), given the errors (B, K) at the current images."""
        self.calls += 1
        if self.calls == 1:
            self.last = error
            # y (B, RING_ROWS, K), a ring: a row is overwritten once S no longer uses it.
            self.moves = error.new_zeros(len(error), RING_ROWS, error.shape[1])
            self.inner = error.new_zeros(len(error), RING_ROWS, RING_ROWS)  # S = I - y^T inner y
            return error
        move, self.last = error - self.last, error
        newest, filled = (self.calls - 2) % RING_ROWS, min(self.calls - 1, RING_ROWS)
        self.moves[:, newest] = move
        self.corrections += 1
        moves, inner = self.moves[:, :filled], self.inner[:, :filled, :filled]
        if self.corrections >= RENEWAL * self.differences_in_root:
            self._renew(moves, inner, newest)
        else:
            self._correct(moves, inner, newest)
        return error - _rows(_rows(_rows(error, moves.mT), inner.mT), moves)

    def _renew(self, moves: Tensor, inner: Tensor, newest: int) -> None:
        """Compute S from the last differences, by eigendecomposition."""
        self.differences_in_root, self.corrections = min(moves.shape[1], MEMORY), 0
        ages = (newest - torch.arange(moves.shape[1], device=moves.device)) % RING_ROWS
        fading = torch.where(ages < MEMORY, DECAY ** (ages.to(moves) / 2), 0)[:, None]
        # With y the decayed moves and y y^T = E L E^T, the inverse root is I - y^T E diag(share) E^T y.
        values, vectors = (part.to(moves) for part in decompose(fading * (moves @ moves.mT) * fading.mT))
        values = values.clamp_min(0)
        self.floor = (FLOOR / moves.shape[2] * values.sum(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        vectors = fading * vectors
        inner.copy_((vectors * self._share(values)[:, None]) @ vectors.mT)

    def _correct(self, moves: Tensor, inner: Tensor, newest: int) -> None:
        """Add a difference to S; instead of fading the older ones, its own weight grows."""
        scale = DECAY ** (-self.corrections / 2)
        y = scale * moves[:, newest]
        u = -_rows(_rows(y, moves.mT), inner)  # S^T y, as coefficients (B, M) of the moves
        u[:, newest] += scale
        u_latent = _rows(u, moves)
        # With a floor far below y y^T, as after latents that did not move, only rounding errors would remain.
        self.floor = torch.maximum(self.floor, FLOOR / y.shape[1] * (y * y).sum(1, keepdim=True))
        share = self._share((u_latent * u_latent).sum(1, keepdim=True))
        s_u = u - _rows(_rows(u_latent, moves.mT), inner.mT)
        inner += (share * s_u)[:, :, None] * u[:, None]

    def _share(self, values: Tensor) -> Tensor:
        """The s for which ``(1 + values / floor)^(-1/2) = 1 - s * values``."""
        root = (1 + values / self.floor).sqrt()
        return 1 / (self.floor * root * (1 + root))

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        if self.calls:
            self.last, self.moves, self.inner = self.last[rows], self.moves[rows], self.inner[rows]
        if self.calls > 1:
            self.floor = self.floor[rows]


class RawShare:
    """The share of each error that stays raw: all of it while the error falls fast; the share never rises.

    The ratio of successive error lengths is averaged, with weight 1/2 for the last step and 1/2 for all earlier ones.
    The error is raw at ratios below 0.8 and whitened above 0.9.

    >>> raw = RawShare()
    >>> errors = [[8.0]], [[4.0]], [[3.4]], [[3.26]], [[0.1]]  # ratios 0.5, 0.85, 0.96, ...
    >>> [round(raw(torch.tensor(error)).item(), 2) for error in errors]
    [1.0, 1.0, 1.0, 0.83, 0.83]
    """

    length: Tensor
    ratio: Tensor

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, error: Tensor) -> Tensor:
        """Shares (B,) from 0 to 1, given the errors (B, K) at the current images."""
        self.calls += 1
        length = torch.linalg.vector_norm(error, dim=1)
        if self.calls == 1:
            self.share = torch.ones_like(length)
        else:
            ratio = length / self.length.clamp_min(torch.finfo(length.dtype).tiny)
            self.ratio = ratio if self.calls == 2 else (self.ratio + ratio) / 2
            self.share = self.share.minimum((WHITENED_ABOVE - self.ratio).div(WHITENED_ABOVE - RAW_BELOW).clamp_min(0))
        self.length = length
        return self.share

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        if self.calls:
            self.length, self.share = self.length[rows], self.share[rows]
        if self.calls > 1:
            self.ratio = self.ratio[rows]


def _rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """The product of each row (B, M) with its matrix (B, M, N): (B, N). In the other order, bmm is slow on CPUs."""
    product: Tensor = (rows[:, None] @ matrices)[:, 0]
    return product
