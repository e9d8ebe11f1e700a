"""Plan the attacks of an audit, in shards of fixed rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from oodattack.audit.kinds import KINDS, Target
from oodattack.audit.kinds.latent import Z
from oodattack.detectors import Detector
from oodattack.settings.audit import AuditSettings

LATENT = "latent"


@dataclass(frozen=True)
class Attack:
    """One attack on all samples.

    Attributes:
        kind: name of the kind of attack, see `oodattack.audit.kinds`.
        target: name of what the attack targets, for instance "logits" or "KNN".
        eps: radius of the ball, in pixels of [0, 1].
        steps: number of gradient evaluations in floating point.
        version: digest of the target's code if that may change, else empty.
    """

    kind: str
    target: str
    eps: float
    steps: int
    version: str = ""

    @property
    def key(self) -> str:
        """Name of the attack in files and tables.

        >>> Attack("direct", "KNN", 5.0, 100).key
        'direct-KNN-5-100'
        """
        return f"{self.kind}-{self.target}-{self.eps:.9g}-{self.steps}" + f"-{self.version[:8]}" * bool(self.version)

    @property
    def initial(self) -> "Attack | None":
        """The attack it builds on: the latent one in the same ball, or None.

        A shard of an attack needs the shard of its initial attack with the same rows, and nothing else.

        >>> Attack("direct", "KNN", 5.0, 100).initial.key
        'latent-features-5-100'
        """
        return Attack(LATENT, Z, self.eps, self.steps) if KINDS[self.kind].builds_on_latent else None

    def concerns(self, name: str, detector: Detector) -> bool:
        """Whether a detector scores the images of this attack.

        >>> from oodattack.encoders import load_encoder
        >>> from oodattack.detectors import make_detectors, make_subject
        >>> knn = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN"])[0]["KNN"]
        >>> [Attack(kind, "Gram", 5.0, 100).concerns("KNN", knn) for kind in ("latent", "informed", "direct")]
        [True, False, False]
        """
        return KINDS[self.kind].concerns(self.target, name, detector)


@dataclass(frozen=True)
class Shard:
    """The unit of work: one attack on some rows. Its file is named after both."""

    attack: Attack
    rows: range


def plan(settings: AuditSettings, detectors: Mapping[str, Detector], followed: Collection[str]) -> list[Attack]:
    """All attacks of an audit.

    Args:
        settings: the settings of the audit. The latent attack always runs, because others build on it.
        detectors: detectors by name.
        followed: names of the detectors whose score can be followed.

    >>> from pathlib import Path
    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_detectors, make_subject
    >>> some, _ = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN", "MaxLogit"])
    >>> s = AuditSettings(encoder="x", train="a", test="b", start=("noise",), out=Path("c"), steps=9, budget=("3",))
    >>> [attack.key for attack in plan(s, some, some)]
    ['latent-features-5-9', 'informed-logits-5-9', 'direct-KNN-5-9', 'direct-MaxLogit-5-9', 'latent-features-5-3']
    """

    def attacks(kind: str, target: Target) -> list[Attack]:
        return [Attack(kind, target.name, eps, settings.steps, target.version) for eps in settings.eps]

    found = [
        attack
        for name, kind in KINDS.items()
        if name == LATENT or name in settings.attacks
        for target in kind.targets(detectors, followed)
        for attack in attacks(name, target)
    ]
    return found + [Attack(LATENT, Z, max(settings.eps), steps) for steps in settings.budget]


def shard_rows(count: int, size: int) -> list[range]:
    """The rows of each shard; they depend only on the number of rows and the size of a shard.

    >>> shard_rows(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
