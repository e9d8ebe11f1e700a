"""Adapters for detectors of pytorch-ood that read one view of a subject."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_ood import api
from pytorch_ood.detector import EnergyBased
from torch import Tensor

from oodattack.detectors.base import Loader, NotApplicableError
from oodattack.detectors.subjects import Subject, View
from oodattack.detectors.wrapped import Wrapped, differentiable

Relabel = Callable[[Tensor], Tensor]
"""Maps class numbers (N,) of training images to those that a detector is fitted with."""


class Adapted(Wrapped):
    """A detector that reads one view.

    Args:
        inner: a detector of pytorch-ood, constructed without a model.
        subject: the subject that it is fitted on.
        view: the view that it reads: logits, features or feature maps.
        relabel: applied to the class numbers before the fit.

    >>> from pytorch_ood.detector import MaxLogit
    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import Classifier
    >>> c = Classifier(load_encoder("python:tests.factories:tiny"))
    >>> detector = Adapted(MaxLogit(None), c, c.logits)
    >>> x = torch.rand(2, 3, 32, 32)
    >>> detector.score(x).shape, detector.reads(x).shape, detector.reading
    (torch.Size([2]), torch.Size([2, 5]), 'logits')
    """

    def __init__(self, inner: Any, subject: Subject, view: View, relabel: Relabel = torch.Tensor.clone) -> None:
        super().__init__(inner, subject)
        self.view, self.relabel = view, relabel
        self.input = "logits" if isinstance(inner, api.LogitsDetector) else "features"
        self.reading = view.name

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        if self.inner.requires_fit:
            values, labels = self.subject.collect(self.view, loader)
            getattr(self.inner, f"fit_{self.input}")(values, self.relabel(labels))
            self.inner.to(self.subject.device)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = getattr(self.inner, f"predict_{self.input}")(self.view(images))
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.view(images)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`; differentiable if the library's formula is."""
        scores: Tensor = differentiable(self.inner, f"predict_{self.input}")(reads)
        return scores


class Shaped(Wrapped):
    """A detector that reshapes activations and computes the energy of the resulting logits.

    Args:
        inner: a detector of pytorch-ood constructed with ``detector=unshaped``, so that it returns these logits.
        subject: the subject that it is fitted on.
        view: the activations that it reshapes.
    """

    def __init__(self, inner: Any, subject: Subject, view: View) -> None:
        super().__init__(inner, subject)
        self.view = view
        self.input = "feature_maps" if isinstance(inner, api.FeatureMapsDetector) else "features"

    def _values(self, images: Tensor) -> Tensor:
        return self._formed(self.view(images))

    def _formed(self, values: Tensor) -> Tensor:
        # The library treats pooled features as feature maps of one pixel.
        return values[:, :, None, None] if self.input == "feature_maps" and values.ndim == 2 else values

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        if self.inner.requires_fit:
            values, labels = self.subject.collect(self.view, loader)
            getattr(self.inner, f"fit_{self.input}")(self._formed(values), labels)
            self.inner.to(self.subject.device)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        logits = getattr(self.inner, f"predict_{self.input}")(self._values(images))
        return _energy(logits).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the logits after reshaping."""
        logits: Tensor = differentiable(self.inner, f"predict_{self.input}")(self._values(images))
        return logits

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`: the energy (B,) of these logits."""
        return _energy(reads)


def unshaped(logits: Tensor) -> Tensor:
    """The identity, passed as ``detector`` to pytorch-ood's reshaping detectors so that they return their logits."""
    return logits


def consecutive(labels: Tensor) -> Tensor:
    """Renumber classes without gaps: 0, 1, 2, ... for the classes that occur.

    >>> consecutive(torch.tensor([2, 7, 2]))
    tensor([0, 1, 0])
    """
    numbers: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbers


def several(labels: Tensor) -> Tensor:
    """The same as `consecutive`, for detectors that compare classes.

    Raises:
        NotApplicableError: if there is only one class.
    """
    numbers = consecutive(labels)
    if int(numbers.max()) == 0:
        raise NotApplicableError(
            "expected training images of at least 2 classes, got 1: the detector compares classes with their union"
        )
    return numbers


def every(count: int) -> Relabel:
    """Leave class numbers as they are, for detectors that need images of all ``count`` classes.

    >>> every(3)(torch.tensor([0, 1, 1]))
    Traceback (most recent call last):
        ...
    oodattack.detectors.base.NotApplicableError: expected training images of all 3 classes, got 2 of them
    """

    def check(labels: Tensor) -> Tensor:
        found = len(torch.unique(labels))
        if found < count:
            raise NotApplicableError(f"expected training images of all {count} classes, got {found} of them")
        return labels

    return check


def _energy(logits: Tensor) -> Tensor:
    scores: Tensor = EnergyBased.score(logits)
    return scores
