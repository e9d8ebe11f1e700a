"""The latent attack: one for all detectors."""

from collections.abc import Collection

from oodattack.attacks import latent
from oodattack.attacks.batch import Function
from oodattack.auditing.kinds.kind import BatchAttack, Context, Detectors, Target
from oodattack.detectors import Detector, Subject

Z = "features"


class Latent:
    """See `oodattack.attacks.latent`."""

    builds_on: str | None = None

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:  # noqa: ARG002
        """The features z."""
        return [Target(Z)]

    def concerns(self, target: str, name: str, detector: Detector) -> bool:  # noqa: ARG002
        """Every detector."""
        return True

    def matched(self, target: str, subject: Subject, detectors: Detectors) -> Function:  # noqa: ARG002
        """The features z."""
        return subject.features

    def on(self, target: str, context: Context) -> BatchAttack:
        """See `Kind`."""
        features, gradient = self.matched(target, context.subject, context.detectors), context.gradient
        return lambda samples, ball, _initial: latent(
            features, samples, ball, restarts=context.restarts, gradient=gradient
        )
