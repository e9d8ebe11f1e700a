"""The rate of a variational information bottleneck as a detector (Alemi et al. 2018, the paper's [7])."""

import torch
from torch import Tensor

from oodattack.detectors.classifier import Classifier, View
from oodattack.detectors.detector import Loader
from oodattack.networks import Bottleneck
from oodattack.networks.bottleneck import rate


def rate_detectors(classifier: Classifier) -> "dict[str, Rate]":
    """The rate, where the network has one.

    >>> from oodattack.encoders import load_encoder
    >>> rate_detectors(Classifier(load_encoder("python:tests.factories:tiny")))
    {}
    """
    network = classifier.encoder.model
    return {"Rate": Rate(classifier, network)} if isinstance(network, Bottleneck) else {}


class Rate:
    """KL(q(z|x) || r(z)) in nats: how much the network needs to say of an image."""

    def __init__(self, classifier: Classifier, network: Bottleneck) -> None:
        self.view = View(classifier.encoder, ["stats"], [torch.Size([network.stats.out_features])])

    def fit(self, loader: Loader) -> None:
        """Nothing to fit."""

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with torch.no_grad():
            return self.judge(self.view(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: means and log-variances, of which z, the mean, is a part."""
        return self.view(images)

    def judge(self, reads: Tensor) -> Tensor:
        """The rate of these."""
        return rate(reads)
