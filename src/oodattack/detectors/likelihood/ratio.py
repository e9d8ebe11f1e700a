"""The likelihood ratio between a flow and a background model."""

from torch import Tensor

from oodattack.detectors.likelihood.detector import LikelihoodDetector, log_prob
from oodattack.detectors.likelihood.models import NO_BACKGROUND
from oodattack.detectors.likelihood.readings import Likelihoods, Read
from oodattack.detectors.subjects import Subject
from oodattack.detectors.subjects.subject import present


class LikelihoodRatio(LikelihoodDetector):
    """``-(log p(x) - log p0(x))`` in bits per dimension (Ren et al. 2019).

    p0 is the background model, trained on images of which some pixels were replaced at random: it knows the statistics
    of small neighbourhoods, which cancel, but not the content.

    Raises:
        NotApplicableError: without a flow or a background model, or if a model takes images of another size.
    """

    needs = ("log_p", "log_dets", "background")

    def __init__(self, likelihoods: Likelihoods, subject: Subject) -> None:
        super().__init__(likelihoods, subject)
        present(likelihoods.models.background, NO_BACKGROUND)

    def formula(self, read: Read) -> Tensor:
        """See `LikelihoodDetector`."""
        return self.per_dim(read["background"][:, 0] - log_prob(read))
