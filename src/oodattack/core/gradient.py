"""J', the gradient of the loss with respect to the image: by autograd, or by SPSA where f has none.

A gradient is computed in two halves, f(x) and a pullback w -> J_f^T w, so that a method can choose the weights w after
it has seen f(x). A `Pass` contains both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from oodattack.core.ball import per_sample
from oodattack.core.errors import InputError
from oodattack.core.metrics import as_matrix

Function = Callable[[Tensor], Tensor]
"""f: (B, 3, H, W) -> (B, K) or (B,)."""

Pullback = Callable[[Tensor], Tensor]
"""From weights w (B, K) on the latent to J_f^T w (B, 3, H, W), the gradient of ``<w, f(x)>`` for each sample."""


def _no_pullback(weights: Tensor) -> Tensor:  # noqa: ARG001 -- a Pullback
    raise RuntimeError("this pass evaluated f without a gradient")


@dataclass(frozen=True)
class Pass:
    """f evaluated at a batch of images.

    Attributes:
        latent: (B, K) f(x), detached.
        exact: (B,) bool, whether a sample's latent comes from f itself rather than from an approximation.
        gradients: gradient evaluations per sample spent by the pass and its pullback.
        forwards: further forward passes per sample spent by them: one number, or (B,).
        pullback: see `Pullback`; called at most once.
    """

    latent: Tensor
    exact: Tensor
    gradients: int
    forwards: int | Tensor
    pullback: Pullback = _no_pullback


def evaluate(f: Function, x: Tensor) -> Pass:
    """Evaluate f(x) alone, without a gradient.

    >>> evaluate(lambda x: x.mean((2, 3)), torch.ones(2, 3, 1, 1)).latent.shape
    torch.Size([2, 3])
    """
    with torch.no_grad():
        latent = as_matrix(f(x))
    return Pass(latent, torch.ones(len(x), dtype=torch.bool, device=x.device), gradients=0, forwards=1)


@runtime_checkable
class HasTwin(Protocol):
    """An f with a faster approximation of itself; `oodattack.speed.prepare` makes such encoders.

    A module of your own should define `rough_twin` as a property or method of its class: since Python 3.12 a submodule
    that is assigned to that name is not recognised.
    """

    def __call__(self, x: Tensor, /) -> Tensor:
        """f(x)."""

    @property
    def rough_twin(self) -> Function | None:
        """A callable that computes approximately what f does, in less time; None if f has no twin."""


@runtime_checkable
class Gradient(Protocol):
    """A source of gradients."""

    @property
    def passes(self) -> int:
        """Gradient evaluations (one forward and one backward pass each) per sample for a call and its pullback.

        0 if gradients are estimated from forward passes: `fast` then omits the parts that noise would spoil.
        """

    @property
    def forwards(self) -> int:
        """Further forward passes per sample."""

    def __call__(self, f: Function, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Pullback]:
        """The latents (B, K) of images ``x`` (B, 3, H, W), and the pullback at ``x``; one generator per sample."""


@dataclass(frozen=True)
class Autograd:
    """The exact gradient, in one forward and one backward pass.

    A sample's gradient does not depend on its neighbours. Only the images are differentiated, so the ``.grad`` of the
    model's parameters stays untouched.

    >>> latent, pullback = Autograd()(lambda x: x.mean((2, 3)), torch.ones(2, 3, 1, 1), [])
    >>> pullback(2 * latent).flatten()[:3]
    tensor([2., 2., 2.])
    """

    passes: int = 1
    forwards: int = 0

    def __call__(
        self,
        f: Function,
        x: Tensor,
        generators: Sequence[torch.Generator],  # noqa: ARG002 -- required by the protocol; nothing here is random
    ) -> tuple[Tensor, Pullback]:
        """See `Gradient`."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            latent = as_matrix(f(x))

        def pullback(weights: Tensor) -> Tensor:
            gradient = None
            if latent.requires_grad:
                try:
                    (gradient,) = torch.autograd.grad(latent, x, weights, allow_unused=True)
                except CheckpointError as error:
                    raise InputError(
                        "f recomputes activations in the backward pass (checkpointing), where their kinks cannot be"
                        " softened; switch checkpointing off in f, or use method='plain'"
                    ) from error
            if gradient is None:
                raise InputError(
                    "f gives no gradient: its output does not depend on its input in autograd (a detach, no_grad,"
                    " numpy or rounding inside?); remove that, or pass gradient='spsa' (--gradient spsa)"
                )
            return gradient

        return latent.detach(), pullback


@dataclass(frozen=True)
class Spsa:
    """Simultaneous perturbation (after Spall 1992; Section IV of the paper): J' from forward passes alone.

    The estimate is the mean over ``directions`` of ``<w, f(x + r * v) - f(x - r * v)> / (2 r) * v``, where the pixels
    of v are drawn from {-1, +1}. Both points are clipped to [0, 1], so f never sees a pixel outside its range.

    Args:
        directions: number of directions v per gradient; the error of the estimate falls with its square root.
        radius: r, in pixels of [0, 1]. If the preprocessing rounds pixels, r must exceed its quantisation steps: use
            several levels of 1/255.

    Raises:
        InputError: for a number of directions below 1, or a radius that is not positive.

    >>> Spsa(directions=8).forwards
    17
    """

    directions: int = 32
    radius: float = 4 / 255

    def __post_init__(self) -> None:
        if not isinstance(self.directions, int) or self.directions < 1:
            raise InputError(f"expected a whole number of at least 1 SPSA directions, got {self.directions!r}")
        if not isinstance(self.radius, int | float) or not 0 < self.radius < float("inf"):
            raise InputError(f"expected a positive SPSA radius, got {self.radius!r}")

    @property
    def passes(self) -> int:
        """See `Gradient`."""
        return 0

    @property
    def forwards(self) -> int:
        """See `Gradient`."""
        return 2 * self.directions + 1

    @torch.no_grad()
    def __call__(self, f: Function, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Pullback]:
        """See `Gradient`."""

        @torch.no_grad()
        def pullback(weights: Tensor) -> Tensor:
            gradient = torch.zeros_like(x)
            for _ in range(self.directions):
                signs = torch.stack([torch.randint(2, x.shape[1:], generator=g) for g in generators])
                v = (signs * 2 - 1).to(x)
                ahead = as_matrix(f((x + self.radius * v).clamp(0, 1)))
                behind = as_matrix(f((x - self.radius * v).clamp(0, 1)))
                along = (weights * (ahead - behind)).sum(1) / (2 * self.radius * self.directions)
                gradient += per_sample(along, v) * v
            return gradient

        return as_matrix(f(x)), pullback


def get_gradient(gradient: "str | Gradient") -> Gradient:
    """The source of gradients with that name; an object is returned as it is.

    Raises:
        InputError: for an unknown name.
        TypeError: for anything else.

    >>> get_gradient("spsa").passes
    0
    """
    if not isinstance(gradient, str):
        if isinstance(gradient, type) or not isinstance(gradient, Gradient):
            raise TypeError(f"expected gradient as 'autograd', 'spsa' or a Spsa, got {gradient!r}")
        return gradient
    if gradient == "autograd":
        return Autograd()
    if gradient == "spsa":
        return Spsa()
    raise InputError(f"expected gradient 'autograd' or 'spsa', got {gradient!r}")
