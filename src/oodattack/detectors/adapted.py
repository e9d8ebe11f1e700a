"""Detectors of pytorch-ood behind the three methods of `Detector`.

The library computes scores from logits, features or feature maps; which of them, and of which network, is said here.
What is added is what an attack needs: the values that the score is computed from as a function of the image, and the
score as a differentiable function of these where it is one.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_ood import api
from pytorch_ood.detector import EnergyBased
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oodattack.core.errors import InputError
from oodattack.detectors.classifier import Classifier, View
from oodattack.detectors.detector import Loader


class Adapted:
    """A detector that reads one view of a classifier.

    Args:
        inner: a detector of pytorch-ood, without a model of its own.
        classifier: what it judges.
        view: which part of it: logits, features or feature maps.
        contiguous: whether it wants the classes that there are numbered from 0 without gaps.
        every_class: whether it needs images of every class.

    Attributes:
        reading: a name that detectors share which read the same.

    >>> from pytorch_ood.detector import MaxLogit
    >>> from oodattack.encoders import load_encoder
    >>> c = Classifier(load_encoder("python:tests.factories:tiny"))
    >>> detector = Adapted(MaxLogit(None), c, c.logits)
    >>> x = torch.rand(2, 3, 32, 32)
    >>> detector.score(x).shape, detector.reads(x).shape, detector.reading
    (torch.Size([2]), torch.Size([2, 5]), 'logits')
    """

    def __init__(
        self, inner: Any, classifier: Classifier, view: View, *, contiguous: bool = False, every_class: bool = False
    ) -> None:
        self.inner, self.classifier, self.view = inner, classifier, view
        self.contiguous, self.every_class = contiguous, every_class
        self.kind = "logits" if isinstance(inner, api.LogitsDetector) else "features"
        self.reading = "logits" if view is classifier.logits else "features"

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        if self.inner.requires_fit:
            values, labels = self.classifier.collect(self.view, loader)
            if self.every_class:
                need_every_class(labels, self.classifier)
            if self.contiguous:
                labels = torch.unique(labels, return_inverse=True)[1]
            getattr(self.inner, f"fit_{self.kind}")(values, labels)
            self.inner.to(self.classifier.encoder.mean.device)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = getattr(self.inner, f"predict_{self.kind}")(self.view(images))
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.view(images)

    def judge(self, reads: Tensor) -> Tensor:
        """The score (B,) of what is read, (B, K), with a gradient where the library's formula has one."""
        scores: Tensor = differentiable(self.inner, f"predict_{self.kind}")(reads)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """What was fitted."""
        return fitted_state(self.inner)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another has been fitted to."""
        load_fitted_state(self.inner, state)
        self.inner.to(self.classifier.encoder.mean.device)


class Shaped:
    """A detector that reshapes activations and takes the energy of the logits that follow.

    Args:
        inner: a detector of pytorch-ood made with ``detector=unshaped``, so that it returns these logits.
        classifier: what it judges.
        view: the activations that it reshapes.
    """

    def __init__(self, inner: Any, classifier: Classifier, view: View) -> None:
        self.inner, self.classifier, self.view = inner, classifier, view
        self.kind = "feature_maps" if isinstance(inner, api.FeatureMapsDetector) else "features"

    def _values(self, images: Tensor) -> Tensor:
        return self._formed(self.view(images))

    def _formed(self, values: Tensor) -> Tensor:
        # Pooled features are feature maps of one pixel to the library.
        return values[:, :, None, None] if self.kind == "feature_maps" and values.ndim == 2 else values

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        if f"fit_{self.kind}" in vars(type(self.inner)):  # `requires_fit` is not said by all that have it
            values, labels = self.classifier.collect(self.view, loader)
            getattr(self.inner, f"fit_{self.kind}")(self._formed(values), labels)
            self.inner.to(self.classifier.encoder.mean.device)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        logits = getattr(self.inner, f"predict_{self.kind}")(self._values(images))
        return _energy(logits).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the logits after reshaping."""
        logits: Tensor = differentiable(self.inner, f"predict_{self.kind}")(self._values(images))
        return logits

    def judge(self, reads: Tensor) -> Tensor:
        """The energy (B,) of these logits."""
        return _energy(reads)

    def state_dict(self) -> dict[str, Any]:
        """What was fitted."""
        return fitted_state(self.inner)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another has been fitted to."""
        load_fitted_state(self.inner, state)
        self.inner.to(self.classifier.encoder.mean.device)


def need_every_class(labels: Tensor, classifier: Classifier) -> None:
    """Raise unless there are training images of every class.

    Raises:
        InputError: saying how many there are.
    """
    there = len(torch.unique(labels))
    if there < classifier.classes:
        raise InputError(f"expected training images of all {classifier.classes} classes, got {there} of them")


def _energy(logits: Tensor) -> Tensor:
    scores: Tensor = EnergyBased.score(logits)
    return scores


def unshaped(logits: Tensor) -> Tensor:
    """What to give pytorch-ood's reshaping detectors as ``detector``: nothing is done to their logits."""
    return logits


def differentiable(inner: Any, method: str) -> Callable[[Any], Any]:
    """A method of a detector with the gradient that its formula has.

    The library wraps it in `torch.no_grad` and detaches what it gives; neither is done here. Where a formula leaves
    torch, there is still no gradient: the attack finds out.
    """
    function = inspect.unwrap(getattr(type(inner), method))

    def attached(values: Any) -> Any:
        first = values if isinstance(values, Tensor) else values[0]
        if not (torch.is_grad_enabled() and first.requires_grad):
            return function(inner, values)
        try:
            with _Attached():
                return function(inner, values)
        except RuntimeError:  # numpy takes nothing that is attached
            return function(inner, values)

    return attached


class _Attached(TorchFunctionMode):
    """Within it `x.detach()` and `x.data` are x."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.detach or func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0]
        return func(*args, **(kwargs or {}))


def fitted_state(inner: Any) -> dict[str, Any]:
    """What a detector of pytorch-ood holds but functions and networks: tensors, arrays, numbers, objects of these."""
    return {name: value for name, value in vars(inner).items() if _is_plain(value)}


def load_fitted_state(inner: Any, state: dict[str, Any]) -> None:
    """Set what `fitted_state` gave."""
    for name, value in state.items():
        setattr(inner, name, value)


def _is_plain(value: Any) -> bool:
    """Whether a value is data, through and through."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | np.ndarray | np.generic | range):
        return True
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict | torch.nn.ParameterDict):
        return all(map(_is_plain, value.values()))
    return type(value).__module__.startswith("pytorch_ood.") and all(map(_is_plain, vars(value).values()))
