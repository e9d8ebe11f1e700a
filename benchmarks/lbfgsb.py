"""SciPy's L-BFGS-B, one image at a time: an Linf ball within the pixel box is a pair of bounds for each pixel."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn


class _SpentError(Exception):
    """All evaluations have been used."""


def lbfgsb(f: nn.Module, start: Tensor, target: Tensor, *, eps: float, steps: int) -> Tensor:
    """Minimise ``‖f(x) - t‖^2`` from the start: the best image (B, 3, H, W) of at most ``steps`` evaluations each.

    >>> x = lbfgsb(nn.Flatten(), torch.zeros(1, 3, 1, 1), torch.full((1, 3), 0.5), eps=0.2, steps=20)
    >>> x.flatten().tolist()
    [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """
    return torch.cat(
        [_one(f, x, t, eps, steps) for x, t in zip(torch.split(start, 1), torch.split(target, 1), strict=True)]
    )


def _one(f: nn.Module, start: Tensor, target: Tensor, eps: float, steps: int) -> Tensor:
    from scipy.optimize import minimize

    best, least, left = start, float("inf"), steps

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, least, left
        if left == 0:
            raise _SpentError
        left -= 1
        x = torch.from_numpy(flat).to(start).view_as(start).requires_grad_()
        loss = (f(x) - target).square().sum() / target.square().sum()
        (gradient,) = torch.autograd.grad(loss, x)
        value = float(loss.detach())
        if value < least:
            best, least = x.detach(), value
        return value, _vector(gradient)

    low, high = (start - eps).clamp_min(0), (start + eps).clamp_max(1)
    bounds = np.stack([_vector(low), _vector(high)], 1)
    options = {"maxiter": steps, "maxfun": steps, "ftol": 0, "gtol": 0}
    with contextlib.suppress(_SpentError):
        minimize(objective, _vector(start), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return best.clamp(low, high)


def _vector(images: Tensor) -> np.ndarray:
    return images.flatten().double().cpu().numpy()
