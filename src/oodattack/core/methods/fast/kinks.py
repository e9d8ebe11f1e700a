"""Softened kinks: the gradient of a ReLU network averaged over the length of a step instead of taken at a point.

The gradient of a ReLU network depends on which units are active *at* the image. A step of the attack switches thousands
of them on and off, so the gradient is outdated before the step is finished, and an inactive unit contributes nothing
even if the step would activate it. Within `SoftKinks`, a unit near its kink contributes according to how likely it is
to be active in the neighbourhood of the image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oodattack.core.errors import InputError

MAX_UNITS = 3 * 2**16  # per sample; larger layers keep their kinks: softening them costs most and helps least
REMEASURE_EVERY = 10  # passes: r hardly changes from one pass to the next

ZONE = 0.8  # width at the first step, in units of r, for attacks of up to 100 steps
MIN_ZONE_SHARE = 0.625  # of ZONE, from 400 steps on


def zone(steps: int) -> float:
    """Width of the softened zone at the first step of an attack.

    Long steps switch more units than short ones: an attack of 400 steps, which are shorter, needs a narrower zone.

    >>> zone(100), round(zone(200), 3), zone(400), zone(800)
    (0.8, 0.7, 0.5, 0.5)
    """
    return ZONE * min(1.0, max(MIN_ZONE_SHARE, 1.125 - steps / 800))


class SoftKinks(TorchFunctionMode):
    """Within this context, the derivative of a rectifier rises linearly from 0 to 1 around its kink instead of jumping.

    A unit with input a, in a layer whose inputs have root mean square r in that sample, has the derivative
    ``clamp(1/2 + a / (2 width r), 0, 1)``: the mean of its derivatives at ``a + u``, with u uniform in
    ``[-width r, width r]``. Outputs are unchanged, bit for bit. ReLU, ReLU6 and Hardtanh are softened, whether they are
    modules, functions, methods or operators of an exported program; smooth activations do not need it. TorchScript
    modules keep their kinks, and so do layers of more than `MAX_UNITS` units per sample. Networks that recompute
    activations in the backward pass (checkpointing) cannot be softened.

    Enter the context once for each pass of one network over the same samples (after `keep`, those that remain); set
    `width` between passes. r is measured in every tenth pass, and layers are identified by their position in the pass
    and their shape. If a network splits batches, or runs different layers from pass to pass, r may be outdated or that
    of another layer of the same shape. If it keeps samples on an axis other than the first (transformers with the
    sequence first), r is taken over all samples. Callers that pass a batch in parts announce each part with `begin`.

    A gradient that the network itself computes while the context is open is exact, like all its outputs (except within
    a compiled network). Within `torch.func` nothing is softened.

    Args:
        width: half of the zone around a kink, in units of r.

    Raises:
        InputError: for a width that is not positive.

    >>> a = torch.tensor([[-3.0, -1.0, 1.0, 3.0]], requires_grad=True)
    >>> with SoftKinks(1.0):
    ...     out = torch.relu(a)
    >>> out.tolist()
    [[0.0, 0.0, 1.0, 3.0]]
    >>> [round(g, 2) for g in torch.autograd.grad(out.sum(), a)[0][0].tolist()]
    [0.0, 0.28, 0.72, 1.0]
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        if not width > 0:
            raise InputError(f"expected a positive width of the softened zone, got {width!r}")
        self.width = width
        self.open = False
        self.passes = self.places = 0
        # By the layer's position in the pass: 1 / r (B, 1, ...), and the shape of the layer for one sample.
        self.measured: dict[int, tuple[Tensor, torch.Size]] = {}

    def __enter__(self) -> Self:
        self.renewing = self.passes % REMEASURE_EVERY == 0
        if self.renewing:
            self.measured = {}
        self.passes += 1
        self.place, self.count = 0, 0
        self.rows: Tensor | None = None
        self.open = True
        self.half_zone = torch.tensor(self.width)  # a Python number would become a constant in a compiled network
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self.open = False
        self._end()

    def begin(self, rows: Tensor | None, count: int) -> None:
        """Announce that the network is called again, from its first layer, within the same context.

        Args:
            rows: indices of the samples in this part of the batch, or None for all.
            count: number of samples in the whole batch.
        """
        self._end()
        self.place, self.rows, self.count = 0, rows, count

    def _end(self) -> None:
        if self.place and self.places and self.place != self.places:  # other layers ran than in the previous pass
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
        if a.ndim < 2 or a.numel() > MAX_UNITS * len(a) or not a.requires_grad:
            return func(*args, **kwargs)
        # A gradient that f itself computes must be exact, and vmap cannot be distinguished from it.
        if torch._C._are_functorch_transforms_active():
            return func(*args, **kwargs)
        # Anything that changes from pass to pass would trigger recompilation of the forward or the backward pass.
        if torch.compiler.is_compiling():
            return _SoftClamp.apply(a, low, high, in_place, 3 / self.half_zone * _inverse_r(a), None)
        self.place += 1
        return _SoftClamp.apply(a, low, high, in_place, 3 / self.width * self._inverse_r(a), self)

    def keep(self, rows: Tensor) -> None:
        """Forget every sample but ``rows`` (indices into the current batch)."""
        last = int(rows.max()) if len(rows) else 0
        # In a network that splits its batches, rows of a layer are other samples: then everything is measured again.
        if all(last < len(inverse) for inverse, _ in self.measured.values()):
            for place, (inverse, kind) in self.measured.items():
                self.measured[place] = inverse[rows.to(inverse.device)], kind
        else:
            self.measured = {}

    def _inverse_r(self, a: Tensor) -> Tensor:
        """1 / r of the layer at the current position, (B, 1, ...)."""
        known, shape = self.measured.get(self.place, (None, None))
        if known is not None and shape == a.shape[1:] and not self.renewing:
            inverse = known if self.rows is None else known[self.rows]
            if len(inverse) == len(a):
                return inverse.to(a.dtype)
        inverse = _inverse_r(a)
        self.renewing = True  # if other layers ran than in the previous pass, measure all that follow again
        if self.rows is None:
            self.measured[self.place] = inverse, a.shape[1:]
        elif len(inverse) == len(self.rows):
            if known is None or shape != a.shape[1:]:
                known = inverse.new_zeros(self.count, *inverse.shape[1:])  # the other parts of the batch fill the rest
            known = known.to(torch.promote_types(known.dtype, inverse.dtype))  # one part may be in 16 bits, one in 32
            known[self.rows] = inverse.to(known)
            self.measured[self.place] = known, a.shape[1:]
        return inverse


def _inverse_r(a: Tensor) -> Tensor:
    """1 / r (B, 1, ...), with r the root mean square of a layer's inputs (B, ...) in each sample."""
    length: Tensor = torch.linalg.vector_norm(a.detach(), dim=tuple(range(1, a.ndim)), keepdim=True)
    length += math.sqrt(torch.finfo(a.dtype).tiny)  # not zero, for a layer of zeros: all its units are at the kink
    return math.sqrt(a[0].numel()) / length


class _SoftClamp(torch.autograd.Function):
    """``clamp(a, low, high)`` with the derivative of `SoftKinks`; in place if the network asks for it."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, low: float, high: float, in_place: bool, rate: Tensor, context: SoftKinks | None
    ) -> Tensor:
        # How far inside its bounds a unit is, scaled to 3 at the end of the zone, where hardsigmoid reaches 1.
        inside = a if low == 0 else a - low
        if high == math.inf:
            inside = inside * rate
        else:
            below = high - a
            inside = torch.minimum(inside, below, out=below).mul_(rate)
        # Not `save_for_backward`: checkpointing would silently replace the saved tensors.
        ctx.derivative, ctx.context = F.hardsigmoid(inside, inplace=True), context
        if not in_place:
            return a.clamp(low, high)
        ctx.mark_dirty(a)
        return a.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        # A gradient computed within the context is part of the network's output, and so must be exact.
        inner = ctx.context is not None and ctx.context.open
        derivative = (ctx.derivative > 0.5).to(grad) if inner else ctx.derivative
        return derivative * grad, None, None, None, None, None  # not in place: graphs may be retained


# The arguments of a rectifier: its input, its bounds, and whether it works in place.
_Call = tuple[Tensor, float, float, bool]


def _relu(input: Tensor, inplace: bool = False) -> _Call:  # noqa: A002 -- torch's names
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
