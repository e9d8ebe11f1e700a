"""Detectors that move the image a little before they look at it (ODIN), or look many times with dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_ood.detector import MCD, ODIN, Mahalanobis, MahalanobisODIN, odin_preprocessing
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from oodattack.detectors.adapted import fitted_state, load_fitted_state
from oodattack.detectors.classifier import Classifier, View
from oodattack.detectors.detector import Loader


def perturbing_detectors(classifier: Classifier) -> "dict[str, Odin | OdinMahalanobis | Dropout]":
    """ODIN (Liang et al. 2018, the paper's [4]), Mahalanobis with its preprocessing [5], and Monte Carlo dropout.

    >>> from oodattack.encoders import load_encoder
    >>> list(perturbing_detectors(Classifier(load_encoder("python:tests.factories:tiny"))))
    ['ODIN', 'MahalanobisODIN']
    """
    found: dict[str, Odin | OdinMahalanobis | Dropout] = {
        "ODIN": Odin(classifier),
        "MahalanobisODIN": OdinMahalanobis(classifier),
    }
    if any(isinstance(module, _DropoutNd) and module.p > 0 for module in classifier.encoder.modules()):
        found["MCD"] = Dropout(classifier)
    return found


class Odin:
    """The softmax at temperature 1000 after a step of 0.0014 (in pixels of [0, 1]) towards more confidence."""

    def __init__(self, classifier: Classifier) -> None:
        self.logits = classifier.logits
        self.inner = ODIN(self.logits.exact)

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = self.inner.predict(images)
        return scores.double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the logits of the moved image; that the step's sign changes with the image has no slope."""
        moved = odin_preprocessing(
            _network(self.logits, images), images, eps=self.inner.eps, temperature=self.inner.temperature
        )
        return self.logits(images + (moved - images).detach())

    def judge(self, reads: Tensor) -> Tensor:
        """The score of these logits."""
        scores: Tensor = -(reads / self.inner.temperature).softmax(1).amax(1)
        return scores


class OdinMahalanobis:
    """The Mahalanobis distance after a step of 0.002 (in pixels of [0, 1]) towards the nearest class."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.features = classifier, classifier.features
        self.inner = MahalanobisODIN(self.features.exact)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        features, labels = self.classifier.collect(self.features, loader)
        self.inner.fit_features(features, torch.unique(labels, return_inverse=True)[1])
        self.inner._base.to(self.classifier.encoder.mean.device)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with _frozen(self.features.exact):
            scores: Tensor = self.inner.predict(images.detach())
        return scores.double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the features of the moved image."""
        fitted: Mahalanobis = self.inner._base
        exact, fitted.encoder = fitted.encoder, _network(self.features, images)
        try:
            with _frozen(fitted.encoder):
                moved = self.inner._odin_preprocess(images.detach(), images.device)
        finally:
            fitted.encoder = exact
        return self.features(images + (moved - images).detach())

    def judge(self, reads: Tensor) -> Tensor:
        """The score of these features; the library gives it no gradient."""
        scores: Tensor = self.inner._base.predict_features(reads)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """What was fitted."""
        return fitted_state(self.inner._base)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another has been fitted to."""
        load_fitted_state(self.inner._base, state)
        self.inner._base.to(self.classifier.encoder.mean.device)


class Dropout:
    """The variance of 30 softmaxes with dropout, drawn alike for every image.

    Images are judged one by one: within a batch each would have draws of its own place.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.inner = MCD(classifier.logits.exact)

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores = []
        for image in images.split(1):  # type: ignore[no-untyped-call]
            with torch.random.fork_rng():
                torch.manual_seed(0)
                scores.append(self.inner.predict(image))
        self.classifier.logits.exact.eval()
        return torch.cat(scores).double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, on whose copies dropout acts in the networks that have it before their head."""
        return self.classifier.features(images)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients of weights: the library takes those of the image by a backward pass that would leave them."""
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _network(view: View, images: Tensor) -> nn.Module:
    """The network that the view itself will use for these images."""
    return view.fast if torch.is_grad_enabled() and images.requires_grad else view.exact
