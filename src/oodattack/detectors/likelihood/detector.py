"""What all detectors on flows have in common."""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from oodattack.core.ball import wide
from oodattack.detectors.base import Detector
from oodattack.detectors.likelihood.readings import READING, Likelihoods, Read
from oodattack.detectors.subjects import Subject


class LikelihoodDetector(Detector):
    """A score that is a function of `Likelihoods`, of which it computes only the groups that it needs.

    With dequantisation draws, the score is random: what is read is the deterministic reading with u = 0.5, which
    determines the score up to the draws, and there is no `judge`.

    Args:
        likelihoods: shared by all detectors on these models.
        subject: the subject; its encoder has the size of the models, and its device is theirs.

    Raises:
        NotApplicableError: without a flow, or if a model takes images of another size than the encoder.
    """

    reading = READING
    needs: ClassVar[tuple[str, ...]] = ("log_p", "log_dets")

    def __init__(self, likelihoods: Likelihoods, subject: Subject) -> None:
        models = likelihoods.models
        self.dims = math.prod(models.flow.image_shape)
        models.check_size(subject.encoder.input_size)
        for _, model in models.named():
            model.to(subject.device)
        self.likelihoods = likelihoods
        self.parts = (1,) * sum(likelihoods.sizes.values())
        self.judge = None if likelihoods.dequantise else self._judge
        # A sample is a mean over as many draws as the score itself, so that its expectation is that of the score.
        self.draws = 1 if likelihoods.dequantise else None

    @abstractmethod
    def formula(self, read: Read) -> Tensor:
        """The score (B,) as a function of the groups that it needs, in float64 where the device has it."""

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self._evaluate(self.likelihoods.scored(images, self.needs)).cpu().double()

    def sample(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self._evaluate(self.likelihoods.sampled(images, self.needs))

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: everything that any detector on these models reads, each number with a scale of its own."""
        return self.likelihoods(images)

    def _judge(self, reads: Tensor) -> Tensor:
        return self._evaluate(self.likelihoods.split(reads))

    def _evaluate(self, read: Read) -> Tensor:
        return self.formula({name: wide(read[name]) for name in self.needs})

    def per_dim(self, nats: Tensor) -> Tensor:
        """Nats of an image in bits per dimension."""
        return nats / (self.dims * math.log(2))


def log_prob(read: Read) -> Tensor:
    """Log-likelihoods (B,) of the first flow, in nats.

    >>> log_prob({"log_p": torch.tensor([[-3.0, -2.0]]), "log_dets": torch.tensor([[1.0, 0.5]])})
    tensor([-3.5000])
    """
    return read["log_p"].sum(1) + read["log_dets"].sum(1)
