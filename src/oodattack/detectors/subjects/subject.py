"""The interface of subjects: what each offers, and how it reports what it lacks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.subjects.view import View
from oodattack.encoders import Encoder
from oodattack.engines import compute_images
from oodattack.images.labels import Labels

T = TypeVar("T")

SHARED_VIEWS = ("features", "logits")  # readings that belong to the subject; your own detectors must not use the names
NO_LAYERS = "the network has no layers with feature maps"


class Subject(ABC):
    """What detectors are fitted on and attacked through.

    Every subject has features. Accessing anything that a subject lacks raises `NotApplicableError`, so a detector
    states what it needs by using it.

    Args:
        encoder: the network.
        features: view of z, (B, D).
        layers: view of several layers, (B, C_i, h_i, w_i) each, and last the network's output; None if there are none.
        layer_names: the names of these layers.

    Attributes:
        kind: the kind of subject, in words.
        labels_without: in words, what replaces the classes of training images without usable classes.
        encoder: the network.
        features: view of z.
        layer_names: names of the layers that detectors of several layers read.
        classes: number of classes that the network predicts; None if it is no classifier.
    """

    kind: ClassVar[str]
    labels_without: ClassVar[str]
    classes: int | None = None

    def __init__(self, encoder: Encoder, features: View, layers: View | None, layer_names: Sequence[str]) -> None:
        self.encoder, self.features, self.layer_names = encoder, features, tuple(layer_names)
        self._layers = layers
        self._collected: WeakKeyDictionary[Any, dict[View, tuple[Tensor, Tensor]]] = WeakKeyDictionary()

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.encoder.mean.device

    @property
    def logits(self) -> View:
        """View of the output of the classification head, (B, C); raises `NotApplicableError` without a head."""
        raise NotApplicableError("it needs logits, and the encoder has no classification head")

    @property
    def head(self) -> nn.Linear:
        """A copy of the last linear layer; raises `NotApplicableError` without a head."""
        raise NotApplicableError("it needs the classification head, and the encoder has none")

    @property
    def maps(self) -> View:
        """View of the activations (B, D, h, w) whose spatial mean is the features; or raises `NotApplicableError`."""
        raise NotApplicableError("it needs feature maps that a classification head pools, and the encoder has no head")

    @property
    def layers(self) -> View:
        """View of several layers (B, C_i, h_i, w_i) and, last, the output; raises `NotApplicableError` without any."""
        return present(self._layers, NO_LAYERS)

    @property
    def blocks(self) -> View:
        """View of every block, and last the output, for detectors whose paper reads all layers; else as `layers`."""
        return self.layers

    def shared(self) -> Mapping[str, View]:
        """The views that detectors share, by the names that `Detector.reading` can refer to."""
        return {"features": self.features}

    def own_detectors(self) -> Mapping[str, Detector]:
        """Detectors that come with the subject; by default none."""
        return {}

    @abstractmethod
    def class_order(self, labels: Labels) -> Sequence[str] | None:
        """Names of the training images' classes in the order of their numbers; None if they are not usable."""

    @abstractmethod
    def guess(self, images: Tensor) -> Tensor:
        """Class numbers (B,) for training images (B, 3, H, W) in [0, 1] without usable classes."""

    def collect(
        self, view: View, loader: Loader, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The values of a view for all images of a loader, (N, ...), and their classes (N,), on the CPU.

        It takes one pass and does not keep the images. Without ``reduce``, the result is cached for as long as the
        loader exists, for the next detector that reads the same view; loaders without weak references, such as lists,
        are read each time.

        Args:
            view: what to read.
            loader: in-distribution data.
            reduce: applied to each batch of flat rows (B, K).
        """
        try:
            kept = self._collected.setdefault(loader, {})
        except TypeError:  # a loader such as a list has no weak references, and nothing is cached for it
            kept = {}
        if reduce is None and view in kept:
            return kept[view]

        def read(images: Tensor) -> Tensor:
            rows = view.flat(images)
            return (reduce(rows) if reduce else view.split(rows)[0]).cpu()

        values, labels = [], []
        with torch.no_grad():
            for images, y in loader:
                values.append(compute_images(read, images.to(self.device)))
                labels.append(y.cpu())
        found = (torch.cat(values), torch.cat(labels))
        if reduce is None:
            kept[view] = found
        return found


def present(value: T | None, reason: str) -> T:
    """The value, unless it is None.

    Raises:
        NotApplicableError: with the reason.

    >>> present(3, "")
    3
    """
    if value is None:
        raise NotApplicableError(reason)
    return value
