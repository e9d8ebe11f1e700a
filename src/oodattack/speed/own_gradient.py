"""Convolutions that compute what they always do, and its gradient in a way of their own."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Layer(Protocol):
    """What `OwnGradient` asks of a convolution."""

    bias: Tensor | None

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of (B, C, H, W)."""

    def pull_back(self, grad: Tensor, size: torch.Size) -> Tensor:
        """From the gradient of the output to that of an input of (H, W) = ``size``."""


class OwnGradient(torch.autograd.Function):
    """``apply(x, layer)`` is ``layer.convolve(x, layer.bias)``, with the gradient of ``layer.pull_back``."""

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
        slope: Tensor = ctx.layer.convolve(x, None)
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """See `torch.autograd.Function`."""
        return ctx.layer.pull_back(grad, ctx.size), None
