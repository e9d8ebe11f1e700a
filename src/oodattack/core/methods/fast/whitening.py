"""Which errors to push on: those that have not been moving.

One backward pass gives J_f^T w for one weighting w of the latent's errors. With w = e, the error itself, it is steepest
descent on ‖e‖^2, and a few directions of the latent that every pixel moves drown those that few pixels move: e is
soon left in the slow ones. How fast a direction moves is known from the attack's own path, at no further evaluation.
Where no direction is slow, as in networks of a few layers, e falls fast by itself, and is better left as it is.
"""

import torch
from torch import Tensor

MEMORY = 64  # differences in a covariance; the next would weigh 4 % of the first
DECAY = 0.95  # of a difference's weight in the covariance, a step
RENEWAL = 0.5  # of the differences that a root was made of: after so many more it is made anew
ROWS = MEMORY + int(RENEWAL * MEMORY)  # differences kept: those of a root, and those that have come since
FALLING, SLOW = 0.8, 0.9  # what a step leaves of an error: up to the first it is not weighted, from the second on it is
FLOOR = 0.025  # of the covariance's mean eigenvalue: what directions that never moved are taken to have moved


def decompose(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, m) and eigenvectors (B, m, m) of Gram matrices (B, m, m), by LAPACK, on the CPU.

    The matrix of a sample that is off the numbers counts as zero: it must not stop the others.

    >>> decompose(torch.tensor([[[25.0]]]))[0]
    tensor([[25.]])
    """
    finite = torch.nan_to_num(gram, nan=0, posinf=0, neginf=0).cpu()
    try:
        values, vectors = torch.linalg.eigh(finite)
        sound = bool(values.isfinite().all() & vectors.isfinite().all())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        sound = False
    if not sound:  # LAPACK gives up on some float32 matrices of many magnitudes, those of a scalar that converges
        values, vectors = (part.to(finite) for part in torch.linalg.eigh(finite.double()))
    return values, vectors


class Whitening:
    """Errors divided by the square root of how much the latent moves in their direction.

    Of the differences y of successive latents, C = sum of ``DECAY^age * y y^T``, and the weighted error is ``S e``,
    with ``S = (I + C / floor)^(-1/2)`` and the floor ``FLOOR * tr C / K``. It has the form of full-matrix AdaGrad
    (Duchi et al. 2011) or Shampoo (Gupta et al. 2018), in the latent space and with differences instead of gradients.
    C has the rank of the memory, so that only a matrix of that size is decomposed, whatever the length of the latent.

    S is made anew when half as many differences have come as it was made of. Until then each is taken in by a
    correction: with S the root so far, ``S S^T = (I + C / floor)^-1``, and ``u = S^T y``, the next is
    ``S (I + u u^T / floor)^(-1/2)``, a root of the matrix with y, though not the symmetric one. Meanwhile the floor
    fades with the old differences, and rises only for one that is larger than all of them.

    >>> whitening = Whitening()
    >>> _ = whitening(torch.tensor([[10.0, 1.0]]))
    >>> fast, slow = whitening(torch.tensor([[1.0, 1.0]]))[0].tolist()  # the first has moved, the second has not
    >>> round(fast, 2), slow
    (0.11, 1.0)
    """

    def __init__(self) -> None:
        self.calls = self.made_of = self.corrections = 0

    def __call__(self, error: Tensor) -> Tensor:
        """Weighted errors (B, K) for the errors at the present images, (B, K)."""
        self.calls += 1
        if self.calls == 1:
            self.last = error
            # y (B, ROWS, K), a ring: a row is written again when S is no longer made of it.
            self.moves = error.new_zeros(len(error), ROWS, error.shape[1])
            self.inner = error.new_zeros(len(error), ROWS, ROWS)  # S = I - y^T inner y
            return error
        move, self.last = error - self.last, error
        newest, filled = (self.calls - 2) % ROWS, min(self.calls - 1, ROWS)
        self.moves[:, newest] = move
        self.corrections += 1
        moves, inner = self.moves[:, :filled], self.inner[:, :filled, :filled]
        if self.corrections >= RENEWAL * self.made_of:
            self._renew(moves, inner, newest)
        else:
            self._correct(moves, inner, newest)
        return error - _rows(_rows(_rows(error, moves.mT), inner.mT), moves)

    def _renew(self, moves: Tensor, inner: Tensor, newest: int) -> None:
        """S from the last differences, by a decomposition."""
        self.made_of, self.corrections = min(moves.shape[1], MEMORY), 0
        ages = (newest - torch.arange(moves.shape[1], device=moves.device)) % ROWS
        fading = torch.where(ages < MEMORY, DECAY ** (ages.to(moves) / 2), 0)[:, None]
        # Of y, the fading moves: with y y^T = E L E^T, the inverse root is I - y^T E diag(share) E^T y.
        values, vectors = (part.to(moves) for part in decompose(fading * (moves @ moves.mT) * fading.mT))
        values = values.clamp_min(0)
        self.floor = (FLOOR / moves.shape[2] * values.sum(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        vectors = fading * vectors
        inner.copy_((vectors * self._share(values)[:, None]) @ vectors.mT)

    def _correct(self, moves: Tensor, inner: Tensor, newest: int) -> None:
        """S with one difference more, which counts the more as the others have faded since S was made."""
        scale = DECAY ** (-self.corrections / 2)
        y = scale * moves[:, newest]
        u = -_rows(_rows(y, moves.mT), inner)  # S^T y, as coefficients (B, M) of the moves
        u[:, newest] += scale
        u_latent = _rows(u, moves)
        # With a floor far below y y^T, as after latents that stood still, rounding would be all that is left of it.
        self.floor = torch.maximum(self.floor, FLOOR / y.shape[1] * (y * y).sum(1, keepdim=True))
        share = self._share((u_latent * u_latent).sum(1, keepdim=True))
        s_u = u - _rows(_rows(u_latent, moves.mT), inner.mT)
        inner += (share * s_u)[:, :, None] * u[:, None]

    def _share(self, values: Tensor) -> Tensor:
        """The s of ``(1 + values / floor)^(-1/2) = 1 - s * values``."""
        root = (1 + values / self.floor).sqrt()
        return 1 / (self.floor * root * (1 + root))

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        if self.calls:
            self.last, self.moves, self.inner = self.last[rows], self.moves[rows], self.inner[rows]
        if self.calls > 1:
            self.floor = self.floor[rows]


class Fall:
    """How much of each error is not to be weighted: all of it, as long as it falls fast, and never more than before.

    What a step leaves of its length is averaged: half for the last step, half for those before.

    >>> fall = Fall()
    >>> errors = [[8.0]], [[4.0]], [[3.4]], [[3.26]], [[0.1]]  # half is left, 85 %, 96 %
    >>> [round(fall(torch.tensor(error)).item(), 2) for error in errors]
    [1.0, 1.0, 1.0, 0.83, 0.83]
    """

    length: Tensor
    left: Tensor

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, error: Tensor) -> Tensor:
        """Shares (B,), from 0 to 1, for the errors at the present images, (B, K)."""
        self.calls += 1
        length = torch.linalg.vector_norm(error, dim=1)
        if self.calls == 1:
            self.share = torch.ones_like(length)
        else:
            left = length / self.length.clamp_min(torch.finfo(length.dtype).tiny)
            self.left = left if self.calls == 2 else (self.left + left) / 2
            self.share = self.share.minimum((SLOW - self.left).div(SLOW - FALLING).clamp_min(0))
        self.length = length
        return self.share

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        if self.calls:
            self.length, self.share = self.length[rows], self.share[rows]
        if self.calls > 1:
            self.left = self.left[rows]


def _rows(rows: Tensor, matrices: Tensor) -> Tensor:
    """The product of each row (B, M) with its matrix (B, M, N): (B, N). The other way round bmm is slow on a CPU."""
    product: Tensor = (rows[:, None] @ matrices)[:, 0]
    return product
