"""Which errors to push on: those that have not been moving.

One backward pass gives J_f^T w for one weighting w of the latent's errors. With w = e, the error itself, it is steepest
descent on ‖e‖^2, and a few directions of the latent that every pixel moves drown those that few pixels move: e is
soon left in the slow ones. How fast a direction moves is known from the attack's own path, at no further evaluation.
"""

import math

import torch
from torch import Tensor

MEMORY = 64  # differences kept; the next would weigh 4 % of the first
DECAY = 0.95  # of a difference's weight in the covariance, a step
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

    Of the differences y of successive latents, C = sum of ``DECAY^age * y y^T``, and the weighted error is
    ``(I + C / floor)^(-1/2) e``, with the floor ``FLOOR * tr C / K``. It has the form of full-matrix AdaGrad (Duchi et
    al. 2011) or Shampoo (Gupta et al. 2018), in the latent space and with differences instead of gradients. C has the
    rank of the memory, so that only a matrix of that size is decomposed, whatever the length of the latent.

    >>> whitening = Whitening()
    >>> _ = whitening(torch.tensor([[10.0, 1.0]]))
    >>> fast, slow = whitening(torch.tensor([[1.0, 1.0]]))[0].tolist()  # the first has moved, the second has not
    >>> round(fast, 2), slow
    (0.11, 1.0)
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, error: Tensor) -> Tensor:
        """Weighted errors (B, K) for the errors at the present images, (B, K)."""
        self.calls += 1
        if self.calls == 1:
            self.last = error
            self.moves = error.new_zeros(len(error), MEMORY, error.shape[1])  # the newest in place of the oldest
            self.gram = error.new_zeros(len(error), MEMORY, MEMORY)
            self.weights = error.new_zeros(MEMORY, 1)  # DECAY^(age / 2) of each; a product has both factors
            return error
        move, self.last = error - self.last, error
        newest, filled = (self.calls - 2) % MEMORY, min(self.calls - 1, MEMORY)
        self.moves[:, newest] = move
        moves = self.moves[:, :filled]
        # Only products with the newest are new; the others are kept, for they would cost most here.
        products = (move[:, None] @ moves.transpose(1, 2))[:, 0]
        self.gram[:, newest, :filled] = self.gram[:, :filled, newest] = products
        self.weights *= math.sqrt(DECAY)
        self.weights[newest] = 1
        fading = self.weights[:filled]
        # Of y, the fading moves: with y y^T = E L E^T, the inverse root is I - y^T E diag(s) E^T y.
        values, vectors = decompose(fading * self.gram[:, :filled, :filled] * fading.T)
        values = values.clamp_min(0)
        floor = (FLOOR / error.shape[1] * values.sum(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        root = (1 + values / floor).sqrt()
        shrink = (1 / (floor * root * (1 + root))).to(error)[:, None]
        vectors = fading * vectors.to(error)
        along = error[:, None] @ moves.transpose(1, 2) @ vectors
        moved: Tensor = (along * shrink) @ vectors.transpose(1, 2) @ moves
        return error - moved[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        if self.calls:
            self.last, self.moves, self.gram = self.last[rows], self.moves[rows], self.gram[rows]
