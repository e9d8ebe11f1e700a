"""What every layer of a flow provides."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Layer(nn.Module, ABC):
    """An invertible map of activations (B, C, H, W)."""

    @abstractmethod
    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Map h.

        Returns:
            The result, and the logarithm of the absolute determinant of its Jacobian, in nats: (B,), or () if it does
            not depend on h.
        """

    @abstractmethod
    def inverse(self, h: Tensor) -> Tensor:
        """Compute the activations that `forward` maps to h."""
