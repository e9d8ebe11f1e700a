"""Eigendecomposition of batches of Gram matrices, robust to broken samples and failures of LAPACK."""

import torch
from torch import Tensor


def decompose(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, m) and eigenvectors (B, m, m) of Gram matrices (B, m, m), computed by LAPACK on the CPU.

    Non-finite entries of a matrix count as zero, so that one broken sample does not stop the others.

    >>> decompose(torch.tensor([[[25.0]]]))[0]
    tensor([[25.]])
    """
    finite = torch.nan_to_num(gram, nan=0, posinf=0, neginf=0).cpu()
    try:
        values, vectors = torch.linalg.eigh(finite)
        sound = bool(values.isfinite().all() & vectors.isfinite().all())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        sound = False
    if not sound:  # LAPACK fails on some float32 matrices with a wide range, such as those of a converging scalar
        values, vectors = (part.to(finite) for part in torch.linalg.eigh(finite.double()))
    return values, vectors
