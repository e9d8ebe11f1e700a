"""Wrap pytorch-ood's detectors: their state, and their scores as differentiable functions.

The library computes scores from logits, features or feature maps. An attack needs the score as a differentiable
function of these, which is added here for formulas that are differentiable.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oodattack.detectors.base import Detector
from oodattack.detectors.subjects import Subject


class Wrapped(Detector):
    """A detector that wraps one of pytorch-ood's; its state is the inner detector's plain attributes.

    Args:
        inner: a detector of pytorch-ood, constructed without a model.
        subject: the subject that it is fitted on.
    """

    def __init__(self, inner: Any, subject: Subject) -> None:
        self.inner, self.subject = inner, subject

    def state_dict(self) -> dict[str, Any] | None:
        """See `Detector`."""
        return fitted_state(self.inner)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        load_fitted_state(self.inner, state)
        self.inner.to(self.subject.device)


def differentiable(inner: Any, method: str) -> Callable[[Any], Any]:
    """A method of a detector of pytorch-ood, made differentiable as far as its formula allows.

    The library wraps it in `torch.no_grad` and detaches intermediate values; both are undone here. If a formula leaves
    torch, it still has no gradient, which `oodattack.attacks.follow` detects.
    """
    function = inspect.unwrap(getattr(type(inner), method))

    def attached(values: Any) -> Any:
        first = values if isinstance(values, Tensor) else values[0]
        if not (torch.is_grad_enabled() and first.requires_grad):
            return function(inner, values)
        try:
            with _Attached():
                return function(inner, values)
        except RuntimeError:  # NumPy rejects tensors that require a gradient
            return function(inner, values)

    return attached


class _Attached(TorchFunctionMode):
    """While active, `x.detach()` and `x.data` return x itself."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.detach or func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0]
        return func(*args, **(kwargs or {}))


def fitted_state(inner: Any) -> dict[str, Any]:
    """The attributes of a detector of pytorch-ood that are plain data, without functions and networks.

    >>> from pytorch_ood.detector import EnergyBased
    >>> sorted(fitted_state(EnergyBased(None)))[:1]
    ['model']
    """
    return {name: value for name, value in vars(inner).items() if _is_plain(value)}


def load_fitted_state(inner: Any, state: dict[str, Any]) -> None:
    """Set the attributes that `fitted_state` returned."""
    for name, value in state.items():
        setattr(inner, name, value)


def _is_plain(value: Any) -> bool:
    """Whether a value consists only of tensors, arrays, numbers, strings, and containers of these."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | np.ndarray | np.generic | range):
        return True
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict | torch.nn.ParameterDict):
        return all(map(_is_plain, value.values()))
    return type(value).__module__.startswith("pytorch_ood.") and all(map(_is_plain, vars(value).values()))
