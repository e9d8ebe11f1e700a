"""What two encoders are compared by, and timed with."""

import torch
from torch import Tensor, nn


def probe(f: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of images, and the gradient of a random mixture of them, on the CPU: other devices are waited for.

    The gradient is zero where f has none (then attacks estimate it).

    >>> z, slope = probe(nn.Flatten(), torch.ones(2, 3, 1, 1))
    >>> z.shape, slope.shape
    (torch.Size([2, 3]), torch.Size([2, 3, 1, 1]))
    """
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        z = f(x)
        slope = torch.zeros_like(x)
        if z.requires_grad:
            mixture = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
            (slope,) = torch.autograd.grad(z, x, mixture, materialize_grads=True)
    return z.detach().cpu(), slope.cpu()
