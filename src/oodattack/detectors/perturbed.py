"""Detectors that perturb the image by a small step before scoring it (ODIN), or score it many times with dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_ood.detector import MCD, ODIN, Mahalanobis, MahalanobisODIN, odin_preprocessing
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.modules.dropout import _DropoutNd

from oodattack.detectors.adapted import consecutive
from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject, View
from oodattack.detectors.wrapped import Wrapped, differentiable

DROPOUT_DRAWS = 30


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
    """The variance of 30 softmax outputs with dropout, with the same random draws for every image.

    Images are scored one by one, because within a batch the draws depend on an image's position. If dropout acts on z
    alone, the score is a function of z and has a `judge`; otherwise it takes 30 passes of the network and cannot be
    followed.

    Raises:
        NotApplicableError: if the network has no active dropout.
    """

    unfollowed = "its dropout acts within the network: each score takes 30 passes, too many for a direct attack"

    def __init__(self, subject: Subject) -> None:
        active = [m.p for m in subject.encoder.modules() if isinstance(m, _DropoutNd) and m.p > 0]
        self.logits, self.features = subject.logits, subject.features
        if not active:
            raise NotApplicableError("the network has no dropout")
        self.head, self.p = subject.head, active[0]
        self.inner = MCD(self.logits.exact)
        size = subject.encoder.input_size
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(subject.device)
        with torch.no_grad():
            guess = self._judge(self.features(image))
        score = self.score(image)
        if len(active) == 1 and torch.allclose(guess.cpu().double(), score, rtol=1e-3, atol=1e-9):
            self.judge = self._judge

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        try:
            return torch.cat([self._drawn(image) for image in torch.split(images, 1)]).cpu().double()
        finally:
            self.logits.exact.eval()  # the library leaves dropout active after an error

    def _drawn(self, image: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            scores: Tensor = self.inner.predict(image)
        return scores

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, since most networks apply dropout just before their head."""
        return self.features(images)

    def _judge(self, reads: Tensor) -> Tensor:
        """The score of these features, if dropout acts on them alone."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            masks = [dropout(torch.ones_like(reads[:1]), self.p) for _ in range(DROPOUT_DRAWS)]
        draws = torch.stack([self.head(reads * mask).softmax(1) for mask in masks])
        return draws.var(0).mean(1)


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
