"""The unit of work of the rounds: one attack on some of the images."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from oodattack.attacks import Ball, Found, Samples, direct, follow, latent
from oodattack.core.pixels import dequantize
from oodattack.detectors import Classifier, Detector, make_detectors
from oodattack.encoders import Encoder
from oodattack.encoders.trained import from_training
from oodattack.engines import PerProcess, Report, Step, in_batches, keep_freed_memory, sample_seed
from oodattack.networks import MEAN, STD

BATCH_SIZE = 64
ATTACKED_SCORE = "EnergyBased"  # by the direct attack


@dataclass(frozen=True)
class RoundAttack(ABC):
    """Work: an attack on the network of a round. Returns what it found for the rows of a chunk.

    Unlike other work it writes nothing, because a chunk is at most `BATCH_SIZE` images of the size trained on.

    Attributes:
        network: the network under attack.
        name: the stage of the training; the seeds depend on it.
        seed: the seed of the training.
        x_in: (N, 3, H, W) uint8, the images whose latents or scores are the targets.
        starts: (N, 3, H, W) uint8, the outliers where the attacks start.
        ball: the ball and the number of steps.
    """

    network: PerProcess[Classifier]
    name: str
    seed: int
    x_in: Tensor
    starts: Tensor
    ball: Ball

    def __call__(self, rows: range, report: Report) -> tuple[Tensor, Tensor]:
        """The images (B, 3, H, W) uint8 found for the rows of a chunk, and their MAPE (B,)."""
        classifier = self.network.get()

        def compute(batch: range) -> Found:
            report(Step(batch.start - rows.start, len(batch), 0.0))
            some = slice(batch.start, batch.stop)
            x_in, start = (dequantize(images[some]).to(classifier.device) for images in (self.x_in, self.starts))
            seeds = [sample_seed(self.seed, self.name, row) for row in batch]
            return self.attack(classifier, Samples(x_in, start, seeds), some)

        found = [part for _, part in in_batches(rows, BATCH_SIZE, compute)]
        return torch.cat([part.images for part in found]), torch.cat([part.mape for part in found])

    @abstractmethod
    def attack(self, classifier: Classifier, samples: Samples, rows: slice) -> Found:
        """Attack one batch."""


@dataclass(frozen=True)
class LatentAttack(RoundAttack):
    """Work: find images near the starts with the latents of x_in."""

    def attack(self, classifier: Classifier, samples: Samples, rows: slice) -> Found:  # noqa: ARG002
        """See `RoundAttack`."""
        return latent(classifier.features, samples, self.ball)


@dataclass(frozen=True)
class DirectAttack(RoundAttack):
    """Work: find images near the starts with the lowest scores.

    Attributes:
        initial: (N, 3, H, W) uint8, the images that the latent attack found in the same ball.
        inside: scores (N,) of x_in.
    """

    initial: Tensor
    inside: Tensor

    def attack(self, classifier: Classifier, samples: Samples, rows: slice) -> Found:
        """See `RoundAttack`."""
        detector = attacked_detector(classifier)
        few = torch.cat([dequantize(images[:2]).to(classifier.device) for images in (self.x_in, self.starts)])
        initial = dequantize(self.initial[rows]).to(classifier.device)
        return direct(follow(detector, few, self.inside), detector, samples, self.ball, initial)


def attacked_detector(classifier: Classifier) -> Detector:
    """The detector whose score the direct attack lowers; it needs no fit."""
    return make_detectors(classifier, [ATTACKED_SCORE])[0][ATTACKED_SCORE]


def as_classifier(model: nn.Module, size: int, name: str) -> Classifier:
    """A network in training, as the attacks see it."""
    return Classifier(Encoder(model, name=name, input_size=(size, size), mean=MEAN, std=STD).eval())


def open_network(folder: Path, size: int, device: torch.device, threads: int) -> Classifier:
    """Load a network in a process other than the one that trains it.

    Args:
        folder: contains the header of the training and the weights.
        size: side of the images, in pixels.
        device: where to attack it.
        threads: number of torch threads to use, because results with other numbers differ in the last digits.

    Raises:
        InputError: if the weights are missing or unreadable.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    model = from_training(str(folder)).model.requires_grad_(False).to(device)
    return as_classifier(model, size, str(folder))
