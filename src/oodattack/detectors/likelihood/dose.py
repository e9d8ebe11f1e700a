"""Density of states estimation: how rare statistics of a flow are among training images."""

import math
from typing import Any

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.detectors.base import Loader
from oodattack.detectors.likelihood.detector import LikelihoodDetector
from oodattack.detectors.likelihood.readings import Read

MAX_SAMPLES = 2000  # of the training images, evenly spread over them; each score is a sum over all of these


class DoSE(LikelihoodDetector):
    """The joint rarity of log p(x), log p(z) and the log-determinant (Morningstar et al. 2021, DoSE-KDE).

    The sum of the negative logarithms of three one-dimensional Gaussian kernel density estimates, fitted to up to 2,000
    training images, with the bandwidth of Scott (1992): the standard deviation times n^(-1/5). It is two-sided.
    """

    statistics: Tensor

    def fit(self, loader: Loader) -> None:
        """See `Detector`.

        Raises:
            InputError: if a statistic has the same value for all training images.
        """
        found = _statistics(self.likelihoods.collect(loader)).double()
        rows = torch.linspace(0, len(found) - 1, min(len(found), MAX_SAMPLES), dtype=torch.float64)
        kept = found[rows.round().long()]
        if len(kept) < 2 or not bool((kept.std(0) > 0).all()):
            raise InputError(
                f"expected training images with different likelihoods, got {len(kept)} without; name more images"
            )
        self.statistics = kept

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return -log_kde(_statistics(read), self.statistics).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"statistics": self.statistics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.statistics = state["statistics"]


def log_kde(values: Tensor, samples: Tensor) -> Tensor:
    """Logarithms of Gaussian kernel density estimates, one for each column, with the bandwidth of Scott (1992).

    Finite however far from the samples.

    Args:
        values: (B, S) where to evaluate them.
        samples: (N, S) that they are fitted to, at least 2, and not all the same.

    Returns:
        (B, S).

    >>> log_kde(torch.tensor([[0.0], [1e9]]), torch.tensor([[-1.0], [1.0]])).flatten().isfinite().tolist()
    [True, True]
    """
    count = len(samples)
    samples = samples.to(values)
    width = samples.std(0) * count**-0.2
    distances = (values[:, None] - samples) / width
    logs: Tensor = (-distances.square() / 2).logsumexp(1) - (count * width * math.sqrt(2 * math.pi)).log()
    return logs


def _statistics(read: Read) -> Tensor:
    log_p_z, log_det = read["log_p"].sum(1), read["log_dets"].sum(1)
    return torch.stack([log_p_z + log_det, log_p_z, log_det], dim=1)
