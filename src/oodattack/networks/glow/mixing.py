"""The invertible 1x1 convolution, which mixes the channels of each pixel."""

import torch
from torch import Tensor, nn

from oodattack.networks.glow.layer import Layer


class Mixing(Layer):
    """Multiplies the channels of each pixel by ``W = P L U``, which starts as a random rotation.

    P is a fixed permutation, L lower triangular with ones on its diagonal, and U upper triangular with the diagonal
    ``sign * exp(log_diagonal)``, the signs fixed. The log-determinant is a sum of parameters. With a full matrix, every
    call would factorise it, which not every device can, and training could make it singular.

    Args:
        channels: number of channels.

    >>> W = Mixing(12).weight()
    >>> torch.allclose(W @ W.T, torch.eye(12), atol=1e-5)
    True
    """

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal().float()
        self.triangles = nn.Parameter((lower.tril(-1) + upper.triu(1)).float())  # L below the diagonal, U above it
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.register_buffer("sign", diagonal.sign())
        self.register_buffer("order", permutation.argmax(1))  # row i of W is row order[i] of L U

    def weight(self) -> Tensor:
        """Compute W, (C, C)."""
        one = torch.eye(len(self.sign), dtype=self.triangles.dtype, device=self.triangles.device)
        lower = self.triangles.tril(-1) + one
        upper = self.triangles.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        with torch.autocast(self.triangles.device.type, enabled=False):
            return (lower @ upper)[self.order]

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer`."""
        return _multiply(self.weight(), h), self.log_diagonal.sum() * h.shape[2] * h.shape[3]

    def inverse(self, h: Tensor) -> Tensor:
        """See `Layer`."""
        # In float64 on the CPU: the matrix is small, and some devices have neither float64 nor an inverse.
        inverse = torch.linalg.inv(self.weight().cpu().double())
        return _multiply(inverse.to(h.dtype).to(h.device), h)


def _multiply(weight: Tensor, h: Tensor) -> Tensor:
    # Neither rounded by mixed precision nor, as convolutions are by default, to TF32: only networks may be rough.
    with torch.autocast(h.device.type, enabled=False):
        return (weight @ h.flatten(2)).view(h.shape)
