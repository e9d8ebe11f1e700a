"""What an audit needs to know of a kind of attack."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from oodattack.attacks import Ball, Followed, Found, Samples
from oodattack.detectors import Detector, Subject

Detectors = Mapping[str, Detector]
BatchAttack = Callable[[Samples, Ball, Tensor | None], Found]
"""From a batch, its ball, and images (B, 3, H, W) in [0, 1] of the attack that it builds on, to what was found."""


@dataclass(frozen=True)
class Target:
    """What one attack is aimed at.

    Attributes:
        name: part of the names of its files.
        version: digest of the code of the target, where that may change.
    """

    name: str
    version: str = ""


@dataclass(frozen=True)
class Context:
    """What an attack has at hand.

    Attributes:
        subject: what is attacked.
        detectors: fitted, by name.
        follow: how the score of the detector of a name is followed.
    """

    subject: Subject
    detectors: Detectors
    follow: Callable[[str], Followed]


class Kind(Protocol):
    """A kind of attack.

    Attributes:
        builds_on_latent: whether it also begins from what the latent attack found in the same ball.
    """

    builds_on_latent: bool

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:
        """The targets for these detectors, of which some have a score that can be followed."""

    def concerns(self, target: str, name: str, detector: Detector) -> bool:
        """Whether the images of an attack on a target are scored by a detector."""

    def on(self, target: str, context: Context) -> BatchAttack:
        """The attack on a target."""


def reading(name: str, detector: Detector) -> str:
    """What a detector reads, as a name; detectors that share it are attacked together.

    >>> from oodattack.detectors import make_detectors, make_subject
    >>> from oodattack.encoders import load_encoder
    >>> found, _ = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN", "ReAct"])
    >>> [reading(name, detector) for name, detector in found.items()]
    ['features', 'ReAct']
    """
    return detector.reading or name
