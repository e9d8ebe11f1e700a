"""The slope of a network as a step sees it: its rectifiers' kinks softened in the backward pass.

A gradient knows which units of a ReLU network are on *at* the image. A step of the attack switches thousands of them
on and off: what the gradient told is old before the step is done, and a unit that is off tells nothing of what it would
give. What a step needs is the slope in its neighbourhood, where a unit near its kink counts by how likely it is on.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oodattack.errors import InputError

LARGEST = 3 * 2**16  # units a sample; larger layers keep their kinks: they cost most of the time and help least


class SoftKinks(TorchFunctionMode):
    """Within this context, rectifiers pass back a slope that rises from 0 to 1 about a kink instead of jumping.

    A unit at a, in a layer whose units have the root mean square r in that sample, has the slope
    ``clamp(1/2 + a / (2 width r), 0, 1)``: the mean of its slopes at ``a + u``, with u uniform in
    ``[-width r, width r]``. Outputs stay as they are, to the bit. ReLU, ReLU6 and Hardtanh are softened, as modules,
    functions, methods or operators of an exported program; smooth activations need it not. TorchScript keeps its kinks,
    and so do layers of more than `LARGEST` units a sample.
    Networks that compute activations again in the backward pass (checkpoints) cannot be softened.

    Args:
        width: half of the zone about a kink, in units of r.

    Raises:
        InputError: for a width that is not positive.

    >>> a = torch.tensor([[-3.0, -1.0, 1.0, 3.0]], requires_grad=True)
    >>> with SoftKinks(1.0):
    ...     out = torch.relu(a)
    >>> out.tolist()
    [[0.0, 0.0, 1.0, 3.0]]
    >>> [round(slope, 2) for slope in torch.autograd.grad(out.sum(), a)[0][0].tolist()]
    [0.0, 0.28, 0.72, 1.0]
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        if not width > 0:
            raise InputError(f"expected a positive width of the softened zone, got {width!r}")
        self.width = torch.tensor(width)  # a number would make a compiled network compile anew for each

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        rectifier = _RECTIFIERS.get(func)
        if rectifier is None:
            return func(*args, **kwargs)
        a, low, high, in_place = rectifier(*args, **kwargs)
        if a.ndim < 2 or a.numel() > LARGEST * len(a) or not a.requires_grad:
            return func(*args, **kwargs)
        return _SoftClamp.apply(a, low, high, in_place, self.width)


class _SoftClamp(torch.autograd.Function):
    """``clamp(a, low, high)`` with the slopes of `SoftKinks`; in place where the network asks for that."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, low: float, high: float, in_place: bool, width: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(a, dim=tuple(range(1, a.ndim)), keepdim=True)
        length += math.sqrt(torch.finfo(a.dtype).tiny)  # a layer of zeros is at the kink
        # How far inside the bounds a unit is, in sixths of a zone: hardsigmoid rises from -3 to 3.
        scale = (3 * math.sqrt(a[0].numel()) / width) / length
        if math.isinf(high):
            inside = (a if low == 0 else a - low) * scale
        else:
            inside = (a - (high + low) / 2).abs_().mul_(-scale).add_((high - low) / 2 * scale)
        # Not saved for backward: a checkpoint would put its own there, without a word.
        ctx.slope = F.hardsigmoid(inside, inplace=True)
        if not in_place:
            return a.clamp(low, high)
        ctx.mark_dirty(a)
        return a.clamp_(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.slope * grad, None, None, None, None  # not in place: graphs may be retained


# What a call of a rectifier says: its input, its bounds, and whether it works in place.
_Call = tuple[Tensor, float, float, bool]


def _relu(input: Tensor, inplace: bool = False) -> _Call:  # noqa: A002 -- the names of torch
    return input, 0.0, math.inf, inplace


def _relu_(input: Tensor) -> _Call:  # noqa: A002
    return input, 0.0, math.inf, True


def _relu6(input: Tensor, inplace: bool = False) -> _Call:  # noqa: A002
    return input, 0.0, 6.0, inplace


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Call:  # noqa: A002
    return input, min_val, max_val, inplace


def _hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> _Call:  # noqa: A002
    return input, min_val, max_val, True


_RECTIFIERS: dict[Any, Callable[..., _Call]] = {
    **dict.fromkeys([F.relu, torch.relu, Tensor.relu, torch.ops.aten.relu.default], _relu),
    **dict.fromkeys([torch.relu_, Tensor.relu_, torch.ops.aten.relu_.default], _relu_),
    F.relu6: _relu6,
    **dict.fromkeys([F.hardtanh, torch.ops.aten.hardtanh.default], _hardtanh),
    **dict.fromkeys([F.hardtanh_, torch.ops.aten.hardtanh_.default], _hardtanh_),
}
