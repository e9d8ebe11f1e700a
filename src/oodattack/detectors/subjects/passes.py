"""Functions of images that are evaluated once, although several detectors need their values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# The images are kept beside each result: as long as they exist, no others have their id.
_shared: ContextVar[dict[tuple["Passes[Any]", int], tuple[Tensor, Any]] | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_passes() -> Iterator[None]:
    """While active, each of the `Passes` computes its value for the same images only once if a gradient is needed.

    For several detectors on the same images, whose sum or maximum is differentiated once. Images must not change
    meanwhile.

    >>> passes, x = Passes[Tensor](), torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> with shared_passes():
    ...     passes(torch.exp, x) is passes(torch.exp, x)
    True
    >>> passes(torch.exp, x) is passes(torch.exp, x)
    False
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def needs_gradient(images: Tensor) -> bool:
    """Whether what is computed from the images will be differentiated.

    >>> needs_gradient(torch.ones(1, requires_grad=True)), needs_gradient(torch.ones(1))
    (True, False)
    """
    return torch.is_grad_enabled() and images.requires_grad


class Passes(Generic[T]):
    """The last evaluation of a deterministic function of images.

    Where no gradient is needed, the last value is kept, because dozens of detectors score the same images one after the
    other. Where one is needed, nothing is kept, except within `shared_passes`.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, T] | None = None

    def __call__(self, compute: Callable[[Tensor], T], images: Tensor) -> T:
        """The value for images (B, 3, H, W) of a function, which must be the same in every call."""
        if needs_gradient(images):
            return self._share(compute, images)
        if images.is_inference() or torch.is_inference_mode_enabled():
            # Such images do not count their changes, and such a result cannot be used where a gradient is needed.
            return compute(images)
        version = images._version  # incremented when a tensor is changed in place
        if self._last is None or self._last[0] is not images or self._last[1] != version:
            self._last = (images, version, compute(images))
        return self._last[2]

    def _share(self, compute: Callable[[Tensor], T], images: Tensor) -> T:
        shared = _shared.get()
        if shared is None:
            return compute(images)
        if (self, id(images)) not in shared:
            shared[self, id(images)] = images, compute(images)
        value: T = shared[self, id(images)][1]
        return value
