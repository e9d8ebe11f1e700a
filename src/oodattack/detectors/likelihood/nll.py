"""The negative log-likelihood, and its distance to that of training images."""

from typing import Any

from torch import Tensor

from oodattack.detectors.base import Loader
from oodattack.detectors.likelihood.detector import LikelihoodDetector, log_prob
from oodattack.detectors.likelihood.readings import Read


class NLL(LikelihoodDetector):
    """``-log p(x)`` in bits per dimension (Bishop 1994; Section II-C of the paper)."""

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return self.per_dim(-log_prob(read))


class Typicality(NLL):
    """``|NLL(x) - mean NLL of training images|`` in bits per dimension (Nalisnick et al. 2019, for one image).

    Images of too high a likelihood are rejected as well.
    """

    mean: float

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        self.mean = float(super().formula(self.likelihoods.collect(loader)).double().mean())

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return (super().formula(read) - self.mean).abs()

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.mean = float(state["mean"])
