"""Counts the work done at the encoder, whatever a method reports."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from oodattack.core.gradient import HasTwin


class Counter(nn.Module):
    """Wraps f and counts the samples of its forward and backward passes, including those of its bfloat16 twin.

    >>> from torch import ones
    >>> f = Counter(nn.Flatten())
    >>> f(ones(2, 3, requires_grad=True)).sum().backward()
    >>> _ = f(ones(2, 3))
    >>> f.forwards, f.backwards
    (4, 2)
    """

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f
        self.forwards = self.backwards = self.through_twin = 0

    @property
    def rough_twin(self) -> Callable[[Tensor], Tensor] | None:
        """The twin of f, with its passes counted too, if f has one."""
        twin = self.f.rough_twin if isinstance(self.f, HasTwin) else None
        return None if twin is None else partial(self._pass, twin, rough=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute f(x), counting the work actually done rather than what a method reports."""
        return self._pass(self.f, x)

    def _pass(self, f: Callable[[Tensor], Tensor], x: Tensor, *, rough: bool = False) -> Tensor:
        latent = f(x)
        self.through_twin += len(x) if rough and latent.requires_grad else 0
        self.forwards += len(x)
        if latent.requires_grad:
            latent.register_hook(partial(self._passed, len(x)))  # type: ignore[no-untyped-call]
        return latent

    def _passed(self, count: int, _gradient: Tensor) -> None:
        self.backwards += count
