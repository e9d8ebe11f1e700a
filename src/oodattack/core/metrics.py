"""The distance between two latent vectors as the paper measures it: MAPE."""

import torch
from torch import Tensor

from oodattack.core.errors import InputError

UNDEFINED_MAPE = "z_in is all zeros: MAPE divides by max|z_in|"


def mape(latent: Tensor, target: Tensor) -> Tensor:
    """The paper's MAPE, ``mean(|z_out - z_in|) / max(|z_in|)`` per sample (Section III).

    Not the usual mean absolute percentage error: the divisor is one number per sample.

    Args:
        latent: (B, K) or (B,) latent vectors z_out.
        target: the same shape, z_in.

    Returns:
        (B,) fractions (0.01 is 1 %); NaN where z_in is all zeros, as the measure is undefined there.

    Raises:
        InputError: if the shapes differ, or the tensors are not floating-point latents.

    >>> mape(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()
    0.25
    >>> mape(torch.ones(1, 2), torch.zeros(1, 2)).item()
    nan
    """
    if latent.shape != target.shape:
        raise InputError(
            f"expected latent and target of the same shape, got {tuple(latent.shape)} and {tuple(target.shape)}"
        )
    if latent.ndim not in (1, 2) or latent.shape[1:].numel() == 0 or not target.is_floating_point():
        raise InputError(
            f"expected latents (B, K) or (B,) of floating-point numbers, got {tuple(latent.shape)}, {target.dtype}"
        )
    latent, target = as_matrix(latent), as_matrix(target)
    largest = target.abs().amax(1)
    error = (latent - target).abs().mean(1)
    return torch.where(largest > 0, error / largest, torch.nan)


def as_matrix(z: Tensor) -> Tensor:
    """(B,) as (B, 1); (B, K) as it is."""
    return z[:, None] if z.ndim == 1 else z
