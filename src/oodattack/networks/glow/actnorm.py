"""Activation normalisation: a bias and a scale per channel, initialised from the first training batch."""

from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.networks.glow.layer import Layer

MIN_STD = 1e-3  # however constant a channel of the first batch is, it is scaled up a thousandfold at most


class ActNorm(Layer):
    """Maps h to ``(h + bias) * exp(log_scale)``, channel by channel.

    The first batch in training mode, and no other, sets the parameters so that its channels get mean 0 and variance 1.
    Loading the state dict of an initialised layer initialises this one.

    Args:
        channels: number of channels.

    >>> norm = ActNorm(3)
    >>> h, _ = norm(5 + 2 * torch.randn(8, 3, 4, 4))
    >>> bool(h.mean().abs() < 1e-4), bool((h.std() - 1).abs() < 0.01)
    (True, True)
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))
        self._is_ready = False  # a copy of the flag once it is set, because reading it waits for the device

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Layer`.

        Raises:
            InputError: in evaluation mode, if the layer is not initialised.
        """
        if self.training and not self._check():
            self._initialise(h)
        self._require()
        scale = self.log_scale.exp()
        # In the precision of h, which in mixed precision is lower inside the networks of the couplings.
        normalised = torch.addcmul((self.bias * scale).to(h.dtype), h, scale.to(h.dtype))
        return normalised, self.log_scale.sum() * h.shape[2] * h.shape[3]

    def inverse(self, h: Tensor) -> Tensor:
        """See `Layer`.

        Raises:
            InputError: if the layer is not initialised.
        """
        self._require()
        return h * (-self.log_scale).exp() - self.bias

    @torch.no_grad()
    def _initialise(self, h: Tensor) -> None:
        variance, mean = torch.var_mean(h.to(self.bias.dtype), (0, 2, 3), correction=0, keepdim=True)
        self.bias.copy_(-mean[0])
        self.log_scale.copy_(-variance[0].sqrt().clamp(min=MIN_STD).log())
        self.initialised.fill_(True)

    def _check(self) -> bool:
        self._is_ready = self._is_ready or bool(self.initialised)
        return self._is_ready

    def _require(self) -> None:
        if not self._check():
            raise InputError(
                "expected a trained Glow, got one whose activation normalisation is not initialised;"
                " load trained weights, or call it in training mode with a batch of training images first"
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._is_ready = False
        super()._load_from_state_dict(*args, **kwargs)
