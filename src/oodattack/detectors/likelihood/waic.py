"""The Watanabe-Akaike information criterion of an ensemble of flows."""

import torch
from torch import Tensor

from oodattack.detectors.base import NotApplicableError
from oodattack.detectors.likelihood.detector import LikelihoodDetector, log_prob
from oodattack.detectors.likelihood.readings import Likelihoods, Read
from oodattack.detectors.subjects import Subject


class WAIC(LikelihoodDetector):
    """``-(mean - variance)`` of log p(x) over independently trained flows (Choi et al. 2018).

    The log-likelihoods are in nats, as in the paper; the order of scores depends on that unit, because the variance has
    its square. In nats, the variance dominates between flows that differ. It is that of the members themselves (the
    divisor is their number).

    Raises:
        NotApplicableError: with fewer than two flows, or if one takes images of another size.
    """

    needs = ("log_p", "log_dets", "members")

    def __init__(self, likelihoods: Likelihoods, subject: Subject) -> None:
        super().__init__(likelihoods, subject)
        if len(likelihoods.models.flows) < 2:
            raise NotApplicableError(
                "it needs at least 2 flows; name several with --model, trained by `oodattack train --objective"
                " likelihood` with different seeds"
            )

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        nats = torch.cat([log_prob(read)[:, None], read["members"]], dim=1)
        return nats.var(1, correction=0) - nats.mean(1)
