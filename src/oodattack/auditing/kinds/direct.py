"""The direct attack: one per detector whose score can be followed."""

from collections.abc import Collection

from oodattack.attacks import direct
from oodattack.auditing.kinds.kind import BatchAttack, Context, Detectors, Target
from oodattack.detectors import ENSEMBLE, Detector, Subject


class Direct:
    """See `oodattack.attacks.direct`."""

    builds_on: str | None = "latent"

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:
        """The detectors whose score can be followed."""
        return [Target(name, detector.source) for name, detector in detectors.items() if name in followed]

    def concerns(self, target: str, name: str, detector: Detector) -> bool:  # noqa: ARG002
        """The target itself; an attack on the ensemble concerns every detector."""
        return target in (name, ENSEMBLE)

    def matched(self, target: str, subject: Subject, detectors: Detectors) -> None:  # noqa: ARG002
        """It lowers a score."""
        return

    def on(self, target: str, context: Context) -> BatchAttack:
        """See `Kind`."""
        detector, followed = context.detectors[target], context.follow(target)
        return lambda samples, ball, initial: direct(followed, detector, samples, ball, initial, context.restarts)
