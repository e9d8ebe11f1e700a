"""Detectors that look at the penultimate features, z: distances, subspaces, neighbours, gradients of the head."""

from typing import Any

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

from oodattack.detectors.adapted import Adapted, differentiable, fitted_state
from oodattack.detectors.classifier import Classifier
from oodattack.detectors.detector import Loader


def feature_detectors(classifier: Classifier) -> dict[str, Adapted]:
    """Everything that is a function of z, the case that the paper's claim is about (Section II-B).

    >>> from oodattack.encoders import load_encoder
    >>> list(feature_detectors(Classifier(load_encoder("python:tests.factories:tiny"))))[:3]
    ['Mahalanobis', 'RMD', 'GMM']
    """
    head, view = classifier.head, classifier.features
    width = head.in_features
    found: dict[str, Adapted] = {
        name: Adapted(kind(None), classifier, view, contiguous=True)
        for name, kind in {"Mahalanobis": Mahalanobis, "RMD": RMD, "GMM": GMM}.items()
    }
    found["SHE"] = Adapted(SHE(None, head), classifier, view, every_class=True)
    found["KNN"] = _Neighbours(KNN(None), classifier, view)
    others = {
        "NNGuide": NNGuide(None, head),
        # The papers' dimensions (512 of 2048) belong to wide networks; half is what the library falls back to.
        "ViM": ViM(None, d=width // 2, w=head.weight, b=head.bias),
        "NCI": NCI(None, head),
        "fDBD": fDBD(None, head),
        "PNML": PNML(None, head),
    }
    found |= {name: Adapted(detector, classifier, view) for name, detector in others.items()}
    # Of the network's gradients the papers and OpenOOD take those of the head, which are functions of z.
    found["GradNorm"] = _HeadGradient(GradNorm(head, param_filter=_weight), classifier, view)
    found["GradUncertainty"] = _HeadGradient(GradUncertainty(head, param_filter=_weight), classifier, view)
    return found


class _Neighbours(Adapted):
    """KNN, whose tree is made again from the features it was fitted to: scikit-learn's own format executes code."""

    def fit(self, loader: Loader) -> None:
        self.bank = self.classifier.collect(self.view, loader)
        self.inner.fit_features(*self.bank)

    def state_dict(self) -> dict[str, Any]:
        return {"features": self.bank[0], "labels": self.bank[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bank = state["features"], state["labels"]
        self.inner.fit_features(*self.bank)


class _HeadGradient(Adapted):
    """A detector of gradients whose network is the head alone, and whose image is z."""

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
