"""The norm of the gradient of the log-likelihood."""

from torch import Tensor

from oodattack.detectors.likelihood.detector import LikelihoodDetector
from oodattack.detectors.likelihood.readings import Read


class ApproximateMass(LikelihoodDetector):
    """The L2 norm of the gradient of log p with respect to the image (Grathwohl et al. 2020, Section 5.3).

    In nats per unit of a pixel in [0, 1]. Where probability mass is concentrated, the density is flat; a point of high
    density from which it falls off steeply is not typical. A gradient of this score takes a second derivative of the
    flow.
    """

    needs = ("gradient",)

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return read["gradient"][:, 0].exp()
