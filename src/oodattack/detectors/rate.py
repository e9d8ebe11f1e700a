"""The rate of a variational information bottleneck as a detector (Alemi et al. 2018, the paper's [7])."""

import torch
from torch import Tensor

from oodattack.detectors.base import Detector, NotApplicableError
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject, View
from oodattack.networks import Bottleneck
from oodattack.networks.bottleneck import rate


def rate_detectors() -> dict[str, Make]:
    """The detector "Rate", which applies to networks with a bottleneck.

    >>> list(rate_detectors())
    ['Rate']
    """
    return {"Rate": Rate}


class Rate(Detector):
    """KL(q(z|x) || r(z)) in nats, the information that the network spends on encoding an image.

    Raises:
        NotApplicableError: if the network is not a `Bottleneck`.
    """

    def __init__(self, subject: Subject) -> None:
        network = subject.encoder.model
        if not isinstance(network, Bottleneck):
            raise NotApplicableError("the network is not a variational information bottleneck")
        self.view = View(subject.encoder, ["stats"], [torch.Size([network.stats.out_features])])

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with torch.no_grad():
            return self.judge(self.view(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: means and log-variances; the means are z."""
        return self.view(images)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        return rate(reads)
