"""One forward and backward pass, with which encoders are compared and timed."""

import torch
from torch import Tensor, nn


def probe(f: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the latents of images and the gradient of a random linear combination of them.

    Both are returned on the CPU, which synchronises with other devices. If f is not differentiable (attacks then
    estimate its gradient), the gradient is zero.

    >>> z, gradient = probe(nn.Flatten(), torch.ones(2, 3, 1, 1))
    >>> z.shape, gradient.shape
    (torch.Size([2, 3]), torch.Size([2, 3, 1, 1]))
    """
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        z = f(x)
        gradient = torch.zeros_like(x)
        if z.requires_grad:
            weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
            (gradient,) = torch.autograd.grad(z, x, weights, materialize_grads=True)
    return z.detach().cpu(), gradient.cpu()
