"""The interface between an audit and a kind of attack."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from oodattack.attacks import Ball, Followed, Found, Samples
from oodattack.attacks.batch import Function
from oodattack.core.gradient import Autograd, Gradient, Spsa
from oodattack.detectors import Detector, Subject

Detectors = Mapping[str, Detector]
BatchAttack = Callable[[Samples, Ball, Tensor | None], Found]
"""Attacks a batch of samples in a ball; the third argument: images (B, 3, H, W) in [0, 1] to build on, or None."""


@dataclass(frozen=True)
class Target:
    """What one attack targets.

    Attributes:
        name: name of the target, used in file names.
        version: digest of the target's code if that may change, else empty.
    """

    name: str
    version: str = ""


@dataclass(frozen=True)
class Context:
    """What attacks are made from.

    Attributes:
        subject: the subject.
        detectors: fitted detectors by name.
        follow: given the name of a detector, returns its score in the form that the direct attack descends.
        restarts: number of tries of each attack.
    """

    subject: Subject
    detectors: Detectors
    follow: Callable[[str], Followed]
    restarts: int = 1

    @property
    def gradient(self) -> Gradient:
        """The source of gradients of what is read: SPSA if the pipeline before the network has none."""
        return Autograd() if self.subject.encoder.has_gradient else Spsa()


class Kind(Protocol):
    """A kind of attack.

    Attributes:
        builds_on: name of the kind of attack whose images, found in the same ball, it also uses; None if there is none.
            Latent attacks target z, attacks of other kinds the same as this one.
    """

    builds_on: str | None

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:
        """The targets of attacks on these detectors; ``followed`` names those whose score can be followed."""

    def concerns(self, target: str, name: str, detector: Detector) -> bool:
        """Whether a detector scores the images of an attack on ``target``."""

    def matched(self, target: str, subject: Subject, detectors: Detectors) -> Function | None:
        """The function whose value for x_in the attack on a target matches; None if it lowers a score instead."""

    def on(self, target: str, context: Context) -> BatchAttack:
        """The attack on a target, as a function of a batch."""


def reading(name: str, detector: Detector) -> str:
    """The name of what a detector reads; detectors that share it are attacked together.

    >>> from oodattack.detectors import make_detectors, make_subject
    >>> from oodattack.encoders import load_encoder
    >>> detectors, _ = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN", "Gram"])
    >>> [reading(name, detector) for name, detector in detectors.items()]
    ['features', 'Gram']
    """
    return detector.reading or name
