"""The slope of a network as a step sees it: its rectifiers' kinks softened in the backward pass.

A gradient knows which units of a ReLU network are on *at* the image. A step of the attack switches thousands of them
on and off: what the gradient told is old before the step is done, and a unit that is off tells nothing of what it would
give. What a step needs is the slope in its neighbourhood, where a unit near its kink counts by how likely it is on.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oodattack.errors import InputError

LARGEST = 3 * 2**16  # units a sample; larger layers keep their kinks: they cost most of the time and help least
LARGE = 2**16  # units a sample; larger layers cost more than they help, but for the first steps
RENEWAL = 10  # passes after which r is measured anew: it hardly moves from one to the next


class SoftKinks(TorchFunctionMode):
    """Within this context, rectifiers pass back a slope that rises from 0 to 1 about a kink instead of jumping.

    A unit at a, in a layer whose units have the root mean square r in that sample, has the slope
    ``clamp(1/2 + a / (2 width r), 0, 1)``: the mean of its slopes at ``a + u``, with u uniform in
    ``[-width r, width r]``. Outputs stay as they are, to the bit. ReLU, ReLU6 and Hardtanh are softened, as modules,
    functions, methods or operators of an exported program; smooth activations need it not. TorchScript keeps its kinks,
    and so do layers of more than `largest` units a sample.
    Networks that compute activations again in the backward pass (checkpoints) cannot be softened.

    The context may be entered again and again, once for each pass of the same network over the same samples, with
    `width` and `largest` set in between: r is measured in every tenth pass. Layers are told apart by their place in it.

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
        self.width, self.largest = width, LARGEST
        self.passes = 0
        self.inverse_r: dict[int, Tensor] = {}  # (B, 1, ...), by the layer's place in the pass

    def __enter__(self) -> Self:
        if self.passes % RENEWAL == 0:
            self.inverse_r = {}
        self.passes += 1
        self.place = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

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
        if a.ndim < 2 or not a.requires_grad:
            return func(*args, **kwargs)
        self.place += 1
        if a.numel() > self.largest * len(a):
            return func(*args, **kwargs)
        return _SoftClamp.apply(a, low, high, in_place, self._rate(a))

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        last = int(rows.max()) if len(rows) else 0
        # An f that cuts its batches into parts has other rows in its layers: then all is measured anew.
        whole = all(last < len(inverse) for inverse in self.inverse_r.values())
        self.inverse_r = {place: inverse[rows] for place, inverse in self.inverse_r.items()} if whole else {}

    def _rate(self, a: Tensor) -> Tensor:
        """By what to multiply a unit's distance from its kink to have it in thirds of a zone: (B, 1, ...)."""
        inverse_r = self.inverse_r.get(self.place)
        if inverse_r is None or not _fits(inverse_r, a):
            length = torch.linalg.vector_norm(a.detach(), dim=tuple(range(1, a.ndim)), keepdim=True)
            length += math.sqrt(torch.finfo(a.dtype).tiny)  # a layer of zeros is at the kink
            inverse_r = math.sqrt(a[0].numel()) / length
            # Where a pass goes another way than the one before, all that comes after is measured anew.
            self.inverse_r = {place: kept for place, kept in self.inverse_r.items() if place < self.place}
            self.inverse_r[self.place] = inverse_r
        return inverse_r * (3 / self.width)


def _fits(inverse_r: Tensor, a: Tensor) -> bool:
    return (len(inverse_r), inverse_r.ndim, inverse_r.dtype) == (len(a), a.ndim, a.dtype)


class _SoftClamp(torch.autograd.Function):
    """``clamp(a, low, high)`` with the slopes of `SoftKinks`; in place where the network asks for that."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, low: float, high: float, in_place: bool, rate: Tensor) -> Tensor:
        # How far inside of its bounds a unit is, in thirds of a zone: hardsigmoid rises from -3 to 3.
        inside = a if low == 0 else a - low
        if high == math.inf:
            inside = inside * rate
        else:
            below = high - a
            inside = torch.minimum(inside, below, out=below).mul_(rate)
        # Not saved for backward: a checkpoint would put its own there, without a word.
        ctx.slope = F.hardsigmoid(inside, inplace=True)
        if not in_place:
            return a.clamp(low, high)
        ctx.mark_dirty(a)
        return a.clamp_(low, high)

    @staticmethod
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
