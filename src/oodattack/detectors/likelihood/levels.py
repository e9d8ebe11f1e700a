"""The likelihood of the top level alone."""

from torch import Tensor

from oodattack.detectors.likelihood.detector import LikelihoodDetector
from oodattack.detectors.likelihood.readings import Read


class LastScale(LikelihoodDetector):
    """The contribution of the last level to the NLL, in bits per dimension of the image (Schirrmeister et al. 2020).

    It is ``-(log p(z_L) + log|det|)``, where the determinant is that of the steps of the last level with respect to the
    channels that enter it. Earlier levels, which capture low-level features, enter neither.
    """

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return self.per_dim(-(read["log_p"][:, -1] + read["log_dets"][:, -1]))
