"""Detectors that read the penultimate features z: distances, subspaces, neighbours, gradients of the head."""

from typing import Any

import torch
from pytorch_ood.detector import (
    GMM,
    KNN,
    NCI,
    PNML,
    RMD,
    SHE,
    GradNorm,
    GradUncertainty,
    Mahalanobis,
    NNGuide,
    ViM,
    fDBD,
)
from torch import Tensor

from oodattack.detectors.adapted import Adapted, consecutive, every, several
from oodattack.detectors.base import Loader
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject
from oodattack.detectors.wrapped import differentiable, fitted_state


def feature_detectors() -> dict[str, Make]:
    """Every detector whose score is a function of z, to which the paper's claim applies (Section II-B).

    Mahalanobis, RMD, GMM and KNN need z alone; the others also use the classification head.

    >>> list(feature_detectors())[:3]
    ['Mahalanobis', 'RMD', 'GMM']
    """
    return {
        "Mahalanobis": lambda s: Adapted(Mahalanobis(None), s, s.features, consecutive),
        "RMD": lambda s: Adapted(RMD(None), s, s.features, several),
        "GMM": lambda s: Adapted(GMM(None), s, s.features, consecutive),
        "SHE": lambda s: Adapted(SHE(None, s.head), s, s.features, every(s.head.out_features)),
        "KNN": lambda s: _Neighbours(KNN(None), s, s.features),
        "NNGuide": lambda s: Adapted(NNGuide(None, s.head), s, s.features),
        "ViM": _vim,
        "NCI": lambda s: Adapted(NCI(None, s.head), s, s.features),
        "fDBD": lambda s: Adapted(fDBD(None, s.head), s, s.features),
        "PNML": lambda s: Adapted(PNML(None, s.head), s, s.features),
        # Of the network's gradients, the papers and OpenOOD use those of the head, which are functions of z.
        "GradNorm": lambda s: _HeadGradient(GradNorm(s.head, param_filter=_weight), s, s.features),
        "GradUncertainty": lambda s: _HeadGradient(GradUncertainty(s.head, param_filter=_weight), s, s.features),
    }


def _vim(subject: Subject) -> Adapted:
    # The dimension in the paper (512 of 2048) is for wide networks; half is the library's fallback.
    head = subject.head
    return Adapted(ViM(None, d=head.in_features // 2, w=head.weight, b=head.bias), subject, subject.features)


class _Neighbours(Adapted):
    """KNN; its state is the features it was fitted to, because scikit-learn's own format executes code when loaded."""

    def fit(self, loader: Loader) -> None:
        self._fit(*self.subject.collect(self.view, loader))

    def _fit(self, features: Tensor, labels: Tensor) -> None:
        self.bank = features, labels
        self.inner.fit_features(features, labels)
        self.points: Tensor = self.inner._prepare(features).to(self.subject.device)

    def judge(self, reads: Tensor) -> Tensor:
        """The distance to the k-th nearest neighbour, with the gradient of the mean over the neighbours around it.

        Neighbours are dense, so within a short step another one becomes the k-th. The mean over k/5 ranks on both sides
        predicts what that step gains; the exact gradient, which is that of one distance, is a weaker guide. Matrix
        products find the neighbours, but as ``|a|^2 + |b|^2 - 2 ab`` loses the digits of small distances, the distances
        themselves are computed from differences.
        """
        z, points, k = self.inner._prepare(reads), self.points.to(reads), self.inner.k
        around = min(k // 5, k - 1, len(points) - k)
        with torch.no_grad():
            found = torch.cdist(z, points, compute_mode="use_mm_for_euclid_dist")
            nearest = found.topk(k + around, dim=1, largest=False).indices
        distances = (z[:, None] - points[nearest]).norm(dim=2).sort(dim=1).values
        mean = distances[:, k - 1 - around :].mean(1)
        followed: Tensor = distances[:, k - 1].detach() + (mean - mean.detach())
        return followed

    def state_dict(self) -> dict[str, Any]:
        return {"features": self.bank[0], "labels": self.bank[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fit(state["features"], state["labels"])


class _HeadGradient(Adapted):
    """A detector that reads gradients; its network is the head alone, and its input is z instead of an image."""

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        return self.judge(self.view(images.detach())).cpu().double()

    def judge(self, reads: Tensor) -> Tensor:
        scores: Tensor = differentiable(self.inner, "predict")(reads)
        return scores

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in fitted_state(self.inner).items() if key == "temperature"}


def _weight(name: str) -> bool:
    return name == "weight"
