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

from oodattack.core.errors import InputError

LARGEST = 3 * 2**16  # units a sample; larger layers keep their kinks: they cost most of the time and help least
RENEWAL = 10  # passes after which r is measured anew: it hardly moves from one to the next


class SoftKinks(TorchFunctionMode):
    """Within this context, rectifiers pass back a slope that rises from 0 to 1 about a kink instead of jumping.

    A unit at a, in a layer whose units have the root mean square r in that sample, has the slope
    ``clamp(1/2 + a / (2 width r), 0, 1)``: the mean of its slopes at ``a + u``, with u uniform in
    ``[-width r, width r]``. Outputs stay as they are, to the bit. ReLU, ReLU6 and Hardtanh are softened, as modules,
    functions, methods or operators of an exported program; smooth activations need it not. TorchScript keeps its kinks,
    and so do layers of more than `LARGEST` units a sample.
    Networks that compute activations again in the backward pass (checkpoints) cannot be softened.

    The context may be entered again and again, once for each pass of one network over the same samples (`keep` tells
    which stay), with `width` set in between. r is measured in every tenth pass; a layer is known again by its place in
    the pass and its shape. For a network that cuts batches into parts, or takes other ways from pass to pass, r may be
    of another age, or that of another layer of the same shape; for one that keeps samples on another axis than the
    first (transformers with the sequence first) it is that of all samples. Who passes a batch in parts says so by
    `begin`.

    A gradient that the network itself takes, while the context is open, is exact, as all that it returns (but not
    within a compiled network). Within `torch.func` nothing is softened.

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
        self.width = width
        self.open = False
        self.passes = self.places = 0
        # 1 / r (B, 1, ...), by the layer's place in the pass, with the layer's own shape.
        self.measured: dict[int, tuple[Tensor, torch.Size]] = {}

    def __enter__(self) -> Self:
        self.renewing = self.passes % RENEWAL == 0
        if self.renewing:
            self.measured = {}
        self.passes += 1
        self.place, self.count = 0, 0
        self.rows: Tensor | None = None
        self.open = True
        self.half_zone = torch.tensor(self.width)  # a number would be compiled into a compiled network
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self.open = False
        self._end()

    def begin(self, rows: Tensor | None, count: int) -> None:
        """Say that the network is passed from its beginning, within the context.

        Args:
            rows: indices of the samples that it is passed by, or None for all.
            count: how many there are in all.
        """
        self._end()
        self.place, self.rows, self.count = 0, rows, count

    def _end(self) -> None:
        if self.place and self.places and self.place != self.places:  # the pass went another way than the one before
            self.measured = {}
        self.places = self.place or self.places

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
        if torch._C._are_functorch_transforms_active():  # f's own gradient is to be exact; vmap cannot be told
            return func(*args, **kwargs)
        # For whatever changes from pass to pass it would be compiled anew; and its backward pass is compiled here, too.
        if torch.compiler.is_compiling():
            return _SoftClamp.apply(a, low, high, in_place, 3 / self.half_zone * _inverse_r(a), None)
        self.place += 1
        return _SoftClamp.apply(a, low, high, in_place, 3 / self.width * self._inverse_r(a), self)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the present batch)."""
        last = int(rows.max()) if len(rows) else 0
        # A network that cuts its batches into parts has other rows in its layers: then all is measured anew.
        if all(last < len(inverse) for inverse, _ in self.measured.values()):
            for place, (inverse, kind) in self.measured.items():
                self.measured[place] = inverse[rows.to(inverse.device)], kind
        else:
            self.measured = {}

    def _inverse_r(self, a: Tensor) -> Tensor:
        """1 / r of the layer at the present place, (B, 1, ...)."""
        known, shape = self.measured.get(self.place, (None, None))
        if known is not None and shape == a.shape[1:] and not self.renewing:
            inverse = known if self.rows is None else known[self.rows]
            if len(inverse) == len(a):
                return inverse.to(a.dtype)
        inverse = _inverse_r(a)
        self.renewing = True  # a pass that goes another way than the one before: all that comes after is measured anew
        if self.rows is None:
            self.measured[self.place] = inverse, a.shape[1:]
        elif len(inverse) == len(self.rows):
            if known is None or shape != a.shape[1:]:
                known = inverse.new_zeros(self.count, *inverse.shape[1:])  # the other parts of this pass fill the rest
            known = known.to(torch.promote_types(known.dtype, inverse.dtype))  # one part may be of 16 bits, one of 32
            known[self.rows] = inverse.to(known)
            self.measured[self.place] = known, a.shape[1:]
        return inverse


def _inverse_r(a: Tensor) -> Tensor:
    """1 / r, the root mean square of a layer's units in each sample: (B, 1, ...)."""
    length: Tensor = torch.linalg.vector_norm(a.detach(), dim=tuple(range(1, a.ndim)), keepdim=True)
    length += math.sqrt(torch.finfo(a.dtype).tiny)  # a layer of zeros is at the kink
    return math.sqrt(a[0].numel()) / length


class _SoftClamp(torch.autograd.Function):
    """``clamp(a, low, high)`` with the slopes of `SoftKinks`; in place where the network asks for that."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, low: float, high: float, in_place: bool, rate: Tensor, context: SoftKinks | None
    ) -> Tensor:
        # How far inside of its bounds a unit is: 3 at the end of the zone, where hardsigmoid has risen to 1.
        inside = a if low == 0 else a - low
        if high == math.inf:
            inside = inside * rate
        else:
            below = high - a
            inside = torch.minimum(inside, below, out=below).mul_(rate)
        # Not saved for backward: a checkpoint would put its own there, without a word.
        ctx.slope, ctx.context = F.hardsigmoid(inside, inplace=True), context
        if not in_place:
            return a.clamp(low, high)
        ctx.mark_dirty(a)
        return a.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        # A gradient that is asked for within the context is the network's own, a part of its output.
        inner = ctx.context is not None and ctx.context.open
        slope = (ctx.slope > 0.5).to(grad) if inner else ctx.slope
        return slope * grad, None, None, None, None, None  # not in place: graphs may be retained


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
