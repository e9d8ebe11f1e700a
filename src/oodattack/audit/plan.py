"""Which attacks an audit makes, in shards of fixed rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from oodattack.detectors import SHARED_VIEWS, Detector
from oodattack.settings.audit import AuditSettings

Z = "features"
Kind = Literal["latent", "informed", "direct"]


@dataclass(frozen=True)
class Attack:
    """One attack on all samples.

    Attributes:
        kind: "latent", "informed" or "direct".
        target: what is read (`reading`), or for a direct attack the detector's name.
        eps: radius of the ball.
        steps: gradient evaluations in floating point.
        version: digest of the target's code, where that may change.
    """

    kind: Kind
    target: str
    eps: float
    steps: int
    version: str = ""

    @property
    def key(self) -> str:
        """Name of its files.

        >>> Attack("direct", "KNN", 5.0, 100).key
        'direct-KNN-5-100'
        """
        return f"{self.kind}-{self.target}-{self.eps:.9g}-{self.steps}" + f"-{self.version[:8]}" * bool(self.version)

    @property
    def initial(self) -> "Attack | None":
        """The attack whose images are a second place to begin: for a direct one, the latent one in the same ball.

        A shard of an attack needs the shard of its initial attack with the same rows, and nothing else.

        >>> Attack("direct", "KNN", 5.0, 100).initial.key
        'latent-features-5-100'
        """
        return Attack("latent", Z, self.eps, self.steps) if self.kind == "direct" else None

    def concerns(self, name: str, detector: Detector) -> bool:
        """Whether its images are scored by a detector: those of a latent attack by all."""
        return self.kind == "latent" or self.target == (name if self.kind == "direct" else reading(name, detector))


@dataclass(frozen=True)
class Shard:
    """The unit of work: one attack on some rows; the file is named after both."""

    attack: Attack
    rows: range


def plan(settings: AuditSettings, detectors: Mapping[str, Detector], followed: Collection[str]) -> list[Attack]:
    """Every attack.

    A detector that reads z gets no informed attack of its own: the latent one is the same.

    Args:
        settings: of the audit.
        detectors: by name.
        followed: names of those whose score can be followed.

    >>> from pathlib import Path
    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_detectors, make_subject
    >>> some, _ = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN", "MaxLogit"])
    >>> s = AuditSettings(encoder="x", train="a", test="b", start=("noise",), out=Path("c"), steps=9, budget=("3",))
    >>> [attack.key for attack in plan(s, some, some)]
    ['latent-features-5-9', 'informed-logits-5-9', 'direct-KNN-5-9', 'direct-MaxLogit-5-9', 'latent-features-5-3']
    """
    first_reader = {reading(name, detector): detector for name, detector in reversed(list(detectors.items()))}
    targets: list[tuple[Kind, str, str]] = [("latent", Z, "")]
    if "informed" in settings.attacks:
        targets += [
            # Of several detectors that share a reading, the first is the one that is asked for it.
            ("informed", what, "" if what in SHARED_VIEWS else first_reader[what].source)
            for what in dict.fromkeys(reading(name, detector) for name, detector in detectors.items())
            if what != Z
        ]
    if "direct" in settings.attacks:
        targets += [("direct", name, detector.source) for name, detector in detectors.items() if name in followed]
    found = [
        Attack(kind, target, eps, settings.steps, version) for kind, target, version in targets for eps in settings.eps
    ]
    return found + [Attack("latent", Z, max(settings.eps), steps) for steps in settings.budget]


def reading(name: str, detector: Detector) -> str:
    """What a detector reads, as a name; detectors that share it are attacked together."""
    return detector.reading or name


def shard_rows(count: int, size: int) -> list[range]:
    """The rows of each shard; they depend on the two numbers alone.

    >>> shard_rows(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
