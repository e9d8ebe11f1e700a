"""Which errors to push on: those that have not been moving.

One backward pass gives J_f^T w for one weighting w of the latent's errors. With w = e, the error itself, it is steepest
descent on ‖e‖^2, and a few directions of the latent that every pixel moves drown those that few pixels move: e is
soon left in the slow ones. How fast a direction moves is known from the attack's own path, at no further evaluation.
"""

import torch
from torch import Tensor

MEMORY = 64  # differences kept; the next would weigh 4 % of the first
DECAY = 0.95  # of a difference's weight in the covariance, a step
FLOOR = 0.025  # of the covariance's mean eigenvalue: what directions that never moved are taken to have moved


def decompose(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, m) and eigenvectors (B, m, m) of the Gram matrices of rows (B, m, K), in float64 on the CPU.

    Not every device has float64. The matrix of a sample that is off the numbers counts as zero: it must not stop the
    others.

    >>> decompose(torch.tensor([[[3.0, 4.0]]]))[0]
    tensor([[25.]], dtype=torch.float64)
    """
    gram = torch.nan_to_num(rows @ rows.transpose(1, 2), nan=0, posinf=0, neginf=0)
    values, vectors = torch.linalg.eigh(gram.cpu().double())
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
        self.moves: Tensor | None = None  # (B, m, K), newest last
        self.last: Tensor | None = None

    def __call__(self, error: Tensor) -> Tensor:
        """Weighted errors (B, K) for the errors at the present images, (B, K)."""
        if self.last is None:
            self.last = error
            return error
        move = (error - self.last)[:, None]
        self.last = error
        self.moves = move if self.moves is None else torch.cat([self.moves[:, -MEMORY + 1 :], move], dim=1)
        fading = [DECAY ** (age / 2) for age in reversed(range(self.moves.shape[1]))]
        y = self.moves * error.new_tensor(fading)[:, None]
        # With y y^T = E L E^T, the inverse root is I - y^T E diag(s) E^T y.
        values, vectors = decompose(y)
        mean = values.clamp_min(0).sum(1, keepdim=True) / error.shape[1]
        floor = (FLOOR * mean).clamp_min(torch.finfo(torch.float32).tiny)
        root = (1 + values.clamp_min(0) / floor).sqrt()
        shrink = (1 / (floor * root * (1 + root))).to(error)
        vectors = vectors.to(error)
        along = vectors.transpose(1, 2) @ (y @ error[:, :, None])
        moved: Tensor = y.transpose(1, 2) @ (vectors @ (shrink[:, :, None] * along))
        return error - moved[:, :, 0]

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        if self.last is not None:
            self.last = self.last[rows]
        if self.moves is not None:
            self.moves = self.moves[rows]
