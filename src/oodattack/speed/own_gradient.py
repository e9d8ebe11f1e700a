"""Convolutions with a custom backward pass."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Layer(Protocol):
    """A convolution that `OwnGradient` can differentiate."""

    bias: Tensor | None

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve (B, C, H, W)."""

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """Compute the gradient with respect to an input of (H, W) = ``size`` from the gradient of the output."""


class OwnGradient(torch.autograd.Function):
    """``apply(x, layer)`` computes ``layer.convolve(x, layer.bias)`` and its gradient by ``layer.pull_back``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, layer: Layer) -> Tensor:
        """See `torch.autograd.Function`."""
        return layer.convolve(x, layer.bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Layer], output: Tensor) -> None:  # noqa: ARG004 -- torch's names
        """See `torch.autograd.Function`."""
        x, ctx.layer = inputs
        ctx.size = x.shape[2:]

    @staticmethod
    def jvp(ctx: Any, x: Tensor, _layer: None) -> Tensor:
        """See `torch.autograd.Function`."""
        tangent: Tensor = ctx.layer.convolve(x, None)
        return tangent

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """See `torch.autograd.Function`."""
        return ctx.layer.pull_back(grad, ctx.size), None
