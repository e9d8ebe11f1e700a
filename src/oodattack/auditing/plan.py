"""Plan the attacks of an audit, in shards of fixed rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from oodattack.auditing.kinds import KINDS
from oodattack.auditing.kinds.latent import Z
from oodattack.detectors import Detector
from oodattack.settings.audit import AuditSettings

LATENT = "latent"


@dataclass(frozen=True)
class Attack:
    """One attack from a set of starts.

    Attributes:
        starts: name of the set of starts.
        kind: name of the kind of attack, see `oodattack.auditing.kinds`.
        target: name of what the attack targets, for instance "logits" or "KNN".
        eps: radius of the ball, in pixels of [0, 1].
        steps: number of gradient evaluations in floating point.
        version: digest of the target's code if that may change, else empty.
    """

    starts: str
    kind: str
    target: str
    eps: float
    steps: int
    version: str = ""

    @property
    def key(self) -> str:
        """Name of the attack in files and tables.

        >>> Attack("mnist", "direct", "KNN", 5.0, 100).key
        'mnist/direct-KNN-5-100'
        """
        version = f"-{self.version[:8]}" * bool(self.version)
        return f"{self.starts}/{self.kind}-{self.target}-{self.eps:.9g}-{self.steps}{version}"

    @property
    def initial(self) -> "Attack | None":
        """The attack it builds on, from the same starts in the same ball, or None.

        A shard of an attack needs the shard of its initial attack with the same rows, and nothing else.

        >>> [Attack("mnist", kind, "KNN", 5.0, 100).initial.key for kind in ("aimed", "direct")]
        ['mnist/direct-KNN-5-100', 'mnist/latent-features-5-100']
        """
        kind = KINDS[self.kind].builds_on
        if kind is None:
            return None
        return replace(self, kind=kind, target=Z, version="") if kind == LATENT else replace(self, kind=kind)

    @property
    def depth(self) -> int:
        """Number of attacks that must be finished before it.

        >>> [Attack("mnist", kind, "KNN", 5.0, 100).depth for kind in ("latent", "direct", "aimed")]
        [0, 1, 2]
        """
        return 0 if self.initial is None else self.initial.depth + 1

    def concerns(self, name: str, detector: Detector) -> bool:
        """Whether a detector scores the images of this attack.

        >>> from oodattack.encoders import load_encoder
        >>> from oodattack.detectors import make_detectors, make_subject
        >>> knn = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN"])[0]["KNN"]
        >>> [Attack("mnist", kind, "Gram", 5.0, 9).concerns("KNN", knn) for kind in ("latent", "informed", "direct")]
        [True, False, False]
        """
        return KINDS[self.kind].concerns(self.target, name, detector)

    def within(self, eps: float, steps: int) -> bool:
        """Whether its images lie in the ball of that radius, and took no more steps.

        >>> [Attack("mnist", "direct", "KNN", 5.0, 100).within(eps, 100) for eps in (4.0, 6.0)]
        [False, True]
        """
        return self.eps <= eps and self.steps <= steps


@dataclass(frozen=True)
class Shard:
    """The unit of work: one attack on some rows. Its file is named after both."""

    attack: Attack
    rows: range


def plan(
    settings: AuditSettings, sets: Collection[str], detectors: Mapping[str, Detector], followed: Collection[str]
) -> list[Attack]:
    """All attacks of an audit: every kind and target, from each set of starts, in every ball, with every budget.

    Args:
        settings: the settings of the audit. The latent attack always runs, because others build on it.
        sets: names of the sets of starts.
        detectors: detectors by name.
        followed: names of the detectors whose score can be followed.

    >>> from pathlib import Path
    >>> from oodattack.encoders import load_encoder
    >>> from oodattack.detectors import make_detectors, make_subject
    >>> some, _ = make_detectors(make_subject(load_encoder("python:tests.factories:tiny")), ["KNN", "MaxLogit"])
    >>> s = AuditSettings(encoder="x", train="a", test="b", ood=("mnist",), out=Path("c"), steps=9)
    >>> [attack.key.removeprefix("mnist/") for attack in plan(s, ["mnist"], some, some)][:4]
    ['latent-features-5-9', 'informed-logits-5-9', 'direct-KNN-5-9', 'direct-MaxLogit-5-9']
    """
    return [
        Attack(starts, name, target.name, eps, steps, target.version)
        for name, kind in KINDS.items()
        if name == LATENT or name in settings.attacks
        for target in kind.targets(detectors, followed)
        for starts in sets
        for eps in settings.eps
        for steps in (*settings.budget, settings.steps)
    ]


def shard_rows(count: int, size: int) -> list[range]:
    """The rows of each shard; they depend only on the number of rows and the size of a shard.

    >>> shard_rows(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
