"""J', the gradient of the loss with respect to the image: by autograd, or by SPSA where f has none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from oodattack.core.ball import per_sample
from oodattack.core.errors import InputError
from oodattack.core.metrics import as_matrix

Pullback = Callable[[Tensor], Tensor]
"""From weights w (B, K) on the latent to J_f^T w (B, 3, H, W), the gradient of ``<w, f(x)>`` in each sample."""


class Gradient(Protocol):
    """What the attack asks of a source of gradients."""

    @property
    def passes(self) -> int:
        """Gradient evaluations (a forward and a backward pass) that a call and its pullback spend per sample."""

    @property
    def forwards(self) -> int:
        """Forward passes alone that a call and its pullback spend per sample."""

    def __call__(
        self, f: Callable[[Tensor], Tensor], x: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Pullback]:
        """The latents (B, K) of images ``x`` (B, 3, H, W), and the pullback at them.

        There is one generator per sample.
        """


@dataclass(frozen=True)
class Autograd:
    """The exact gradient, in one forward and one backward pass.

    No sample's gradient depends on its neighbours, and the derivative is taken with respect to the images alone, so
    that the ``.grad`` of the model's parameters stays untouched.

    >>> latent, pullback = Autograd()(lambda x: x.mean((2, 3)), torch.ones(2, 3, 1, 1), [])
    >>> pullback(2 * latent).flatten()[:3]
    tensor([2., 2., 2.])
    """

    passes: int = 1
    forwards: int = 0

    def __call__(
        self,
        f: Callable[[Tensor], Tensor],
        x: Tensor,
        generators: Sequence[torch.Generator],  # noqa: ARG002 -- of the protocol; nothing random here
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
                        "f computes activations again in the backward pass (checkpoints), where they cannot be"
                        " softened; switch that off in f, or pass a Method with soften=0"
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

    The mean over ``directions`` of ``<w, f(x + r * v) - f(x - r * v)> / (2 r) * v`` with v drawn from {-1, +1}. The
    two points are clipped to [0, 1], so f never sees a pixel outside its range.

    Args:
        directions: number of v per gradient; the estimate's error falls with its square root.
        radius: r, in pixels of [0, 1]. It must be wide enough to cross the steps of a preprocessing that rounds:
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
    def __call__(
        self, f: Callable[[Tensor], Tensor], x: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Pullback]:
        """See `Gradient`."""

        @torch.no_grad()
        def pullback(weights: Tensor) -> Tensor:
            gradient = torch.zeros_like(x)
            for _ in range(self.directions):
                signs = torch.stack([torch.randint(2, x.shape[1:], generator=g) for g in generators])
                v = (signs * 2 - 1).to(x)
                ahead = as_matrix(f((x + self.radius * v).clamp(0, 1)))
                behind = as_matrix(f((x - self.radius * v).clamp(0, 1)))
                slope = (weights * (ahead - behind)).sum(1) / (2 * self.radius * self.directions)
                gradient += per_sample(slope, v) * v
            return gradient

        return as_matrix(f(x)), pullback


def get_gradient(gradient: "str | Gradient") -> Gradient:
    """The source of gradients of that name, or the one given.

    Raises:
        InputError: for an unknown name.
        TypeError: for what is neither a name nor a source of gradients.

    >>> get_gradient("spsa").passes
    0
    """
    if not isinstance(gradient, str):
        parts = ("passes", "forwards", "__call__")
        if isinstance(gradient, type) or not all(hasattr(gradient, part) for part in parts):
            raise TypeError(f"expected gradient as 'autograd', 'spsa' or a Spsa, got {gradient!r}")
        return gradient
    if gradient == "autograd":
        return Autograd()
    if gradient == "spsa":
        return Spsa()
    raise InputError(f"expected gradient 'autograd' or 'spsa', got {gradient!r}")
