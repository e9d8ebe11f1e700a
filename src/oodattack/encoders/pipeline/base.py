"""The interface of pipelines."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Pipeline(nn.Module, ABC):
    """A map from images (B, 3, H, W) in [0, 1] to the network's images (B, 3, h, w) in [0, 1].

    On the 8-bit grid, its value is exactly what the product computes from the file.

    Attributes:
        name: the string that names the pipeline in results.
    """

    name: str

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map images to the network's images."""

    def has_gradient(self, x: Tensor) -> bool:
        """Whether autograd finds a gradient, exact or a surrogate, at images (B, 3, H, W)."""
        with torch.enable_grad():
            return bool(self(x.detach().requires_grad_(True)).requires_grad)


def straight_through(surrogate: Tensor, value: Tensor) -> Tensor:
    """A tensor with the given value and the gradient of the surrogate (Bengio et al. 2013, arXiv 1308.3432).

    >>> x = torch.tensor([0.4, 1.4], requires_grad=True)
    >>> y = straight_through(2 * x, x.detach().round())
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([0.0, 1.0], [2.0, 2.0])
    """
    result: Tensor = _StraightThrough.apply(surrogate, value)
    return result


class _StraightThrough(torch.autograd.Function):
    # Not `surrogate + (value - surrogate).detach()`, which differs from the value in the last digit.
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004 -- required by torch
        return value.to(surrogate, copy=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None
