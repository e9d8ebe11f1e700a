"""Detectors that perturb the image by a small step before scoring it (ODIN), or score it many times with dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_ood.detector import ODIN, Mahalanobis, MahalanobisODIN, odin_preprocessing
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.modules.dropout import _DropoutNd

from oodattack.detectors.adapted import consecutive
from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.draws import seeded_by
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject, View
from oodattack.detectors.wrapped import Wrapped, differentiable

SCORE_PASSES = 30
SAMPLE_PASSES = 8  # per step of an attack, where each is a pass of the network


def perturbing_detectors() -> dict[str, Make]:
    """ODIN (Liang et al. 2018, the paper's [4]), Mahalanobis with its preprocessing [5], and Monte Carlo dropout.

    >>> list(perturbing_detectors())
    ['ODIN', 'MahalanobisODIN', 'MCD']
    """
    return {"ODIN": Odin, "MahalanobisODIN": OdinMahalanobis, "MCD": Dropout}


class Odin(Detector):
    """The softmax at temperature 1000 after a step of 0.0014 (pixels in [0, 1]) towards higher confidence."""

    def __init__(self, subject: Subject) -> None:
        self.logits = subject.logits
        self.inner = ODIN(self.logits.exact)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = self.inner.predict(images)
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the logits of the moved image. The gradient treats the step as a constant."""
        moved = odin_preprocessing(
            _network(self.logits, images), images, eps=self.inner.eps, temperature=self.inner.temperature
        )
        return self.logits(images + (moved - images).detach())

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = -(reads / self.inner.temperature).softmax(1).amax(1)
        return scores


class OdinMahalanobis(Wrapped):
    """The Mahalanobis distance after a step of 0.002 (pixels in [0, 1]) towards the nearest class."""

    def __init__(self, subject: Subject) -> None:
        self.features = subject.features
        self.odin = MahalanobisODIN(self.features.exact)
        super().__init__(self.odin._base, subject)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        features, labels = self.subject.collect(self.features, loader)
        self.odin.fit_features(features, consecutive(labels))
        self.inner.to(self.subject.device)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with _frozen(self.features.exact):
            scores: Tensor = self.odin.predict(images.detach())
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the features of the moved image."""
        fitted: Mahalanobis = self.inner
        exact, fitted.encoder = fitted.encoder, _network(self.features, images)
        try:
            with _frozen(fitted.encoder):
                moved = self.odin._odin_preprocess(images.detach(), images.device)
        finally:
            fitted.encoder = exact
        return self.features(images + (moved - images).detach())

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = differentiable(self.inner, "predict_features")(reads)
        return scores


class Dropout(Detector):
    """The variance of the softmax over passes with dropout (Gal & Ghahramani 2016), averaged over the classes.

    As in pytorch-ood's MCD, a score takes 30 passes. Each image gets its own draws, which an attack does not know: it
    descends the variance over other draws, which has the same expectation. If dropout acts on z alone, all passes share
    one pass of the network up to z. Modules other than dropout stay in eval mode.

    Raises:
        NotApplicableError: if the network has no active dropout.
    """

    draws = 1  # a sample takes several passes, whose variance is unbiased

    def __init__(self, subject: Subject) -> None:
        self.logits, self.features = subject.logits, subject.features
        self.active = [m for m in self.logits.exact.modules() if isinstance(m, _DropoutNd) and m.p > 0]
        if not self.active:
            raise NotApplicableError("the network has no dropout")
        self.head, self.p = subject.head, self.active[0].p
        self.on_features = len(self.active) == 1 and self._acts_on_features(subject.encoder.input_size)

    def _acts_on_features(self, size: tuple[int, int]) -> bool:
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(self.head.weight)
        with torch.no_grad(), seeded_by(image):
            whole = self._through_network(image)
        with torch.no_grad(), seeded_by(image):
            part = self._through_head(self.features(image))
        return torch.allclose(whole, part, rtol=1e-3, atol=1e-6)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        drawn = self._through_head if self.on_features else self._through_network
        values = self.features(images) if self.on_features else images
        found = []
        for image, value in zip(torch.split(images, 1), torch.split(values, 1), strict=True):
            with seeded_by(image):
                found.append(drawn(value.expand(SCORE_PASSES, *value.shape[1:])).var(0).mean())
        return torch.stack(found).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, since most networks apply dropout just before their head."""
        return self.features(images)

    def sample(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        if self.on_features:
            z = self.features(images)
            passes = [self._through_head(z) for _ in range(8 * SCORE_PASSES)]
        else:
            passes = [self._through_network(images) for _ in range(SAMPLE_PASSES)]
        return torch.stack(passes).var(0).mean(1)

    def _through_head(self, z: Tensor) -> Tensor:
        softmax: Tensor = self.head(dropout(z, self.p)).softmax(1)
        return softmax

    def _through_network(self, images: Tensor) -> Tensor:
        try:
            for module in self.active:
                module.training = True
            softmax: Tensor = self.logits.exact(images).softmax(1)
        finally:
            for module in self.active:
                module.training = False
        return softmax


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Freeze the weights: the library's backward pass to the image would otherwise leave gradients on them."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _network(view: View, images: Tensor) -> nn.Module:
    """The network that the view itself uses for these images."""
    return view.fast if torch.is_grad_enabled() and images.requires_grad else view.exact
