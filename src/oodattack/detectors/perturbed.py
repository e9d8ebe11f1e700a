"""Detectors that move the image a little before they look at it (ODIN), or look many times with dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_ood.detector import MCD, ODIN, Mahalanobis, MahalanobisODIN, odin_preprocessing
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.modules.dropout import _DropoutNd

from oodattack.detectors.adapted import differentiable, fitted_state, load_fitted_state
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
        return scores.cpu().double()

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
        return scores.cpu().double()

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
        """The score of these features."""
        scores: Tensor = differentiable(self.inner._base, "predict_features")(reads)
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

    Images are judged one by one: within a batch each would have draws of its own place. Where dropout acts on z alone,
    the score is a function of z, ``judge``; elsewhere it takes 30 passes of the network, and is not followed.
    """

    unfollowed = "its draws act within the network: each score takes 30 passes, too many for a direct attack"

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.inner = MCD(classifier.logits.exact)
        active = [m.p for m in classifier.encoder.modules() if isinstance(m, _DropoutNd) and m.p > 0]
        self.p = active[0]
        size, device = classifier.encoder.input_size, classifier.encoder.mean.device
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            guess = self._judge(classifier.features(image))
        score = self.score(image)
        if len(active) == 1 and torch.allclose(guess.cpu().double(), score, rtol=1e-3, atol=1e-9):
            self.judge = self._judge

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        try:
            return torch.cat([self._drawn(image) for image in torch.split(images, 1)]).cpu().double()
        finally:
            self.classifier.logits.exact.eval()  # whatever happened within

    def _drawn(self, image: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            scores: Tensor = self.inner.predict(image)
        return scores

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, on whose copies dropout acts in the networks that have it before their head."""
        return self.classifier.features(images)

    def _judge(self, reads: Tensor) -> Tensor:
        """The score of these features, if dropout acts on them alone."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            masks = [dropout(torch.ones_like(reads[:1]), self.p) for _ in range(30)]
        draws = torch.stack([self.classifier.head(reads * mask).softmax(1) for mask in masks])
        return draws.var(0).mean(1)


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
