"""pytorch-ood's detectors as ours: their state, and their scores as differentiable functions.

The library computes scores from logits, features or feature maps. What an attack needs is added here: the score as a
differentiable function of these, where its formula is one.
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
    """A detector around one of pytorch-ood's, whose plain attributes are its state.

    Args:
        inner: a detector of pytorch-ood, without a model of its own.
        subject: what it is fitted on.
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
    """A method of a detector of pytorch-ood, with the gradient that its formula has.

    The library wraps it in `torch.no_grad` and detaches values on the way; both are undone here. Where a formula leaves
    torch there is still no gradient, and the attack finds out.
    """
    function = inspect.unwrap(getattr(type(inner), method))

    def attached(values: Any) -> Any:
        first = values if isinstance(values, Tensor) else values[0]
        if not (torch.is_grad_enabled() and first.requires_grad):
            return function(inner, values)
        try:
            with _Attached():
                return function(inner, values)
        except RuntimeError:  # numpy refuses tensors that require a gradient
            return function(inner, values)

    return attached


class _Attached(TorchFunctionMode):
    """While active, `x.detach()` and `x.data` are x."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.detach or func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0]
        return func(*args, **(kwargs or {}))


def fitted_state(inner: Any) -> dict[str, Any]:
    """All attributes of a detector of pytorch-ood that are plain data; functions and networks are left out.

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
    """Whether a value consists of tensors, arrays, numbers and containers of these only."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | np.ndarray | np.generic | range):
        return True
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict | torch.nn.ParameterDict):
        return all(map(_is_plain, value.values()))
    return type(value).__module__.startswith("pytorch_ood.") and all(map(_is_plain, vars(value).values()))
