"""The likelihood minus the complexity of the image."""

from typing import Any

from torch import Tensor

from oodattack.detectors.base import Loader
from oodattack.detectors.likelihood.code_lengths import BYTE
from oodattack.detectors.likelihood.detector import LikelihoodDetector, log_prob
from oodattack.detectors.likelihood.readings import Read


class InputComplexity(LikelihoodDetector):
    """``NLL - L`` in bits per dimension, where L is the least length under several codecs (Serra et al. 2020, Eq. 2).

    The codecs are PNG, WebP, JPEG 2000 and, with the extra ``codecs``, JPEG XL. The score has the true lengths; its
    gradient is that of a surrogate (`CodeLengths`), which the fit adapts to the training images.
    """

    needs = ("log_p", "log_dets", "lengths")

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        self.likelihoods.code_lengths.fit(loader)

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return self.per_dim(-log_prob(read)) - BYTE * read["lengths"].amin(1) / self.dims

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return self.likelihoods.code_lengths.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.likelihoods.code_lengths.load_state_dict(state)
