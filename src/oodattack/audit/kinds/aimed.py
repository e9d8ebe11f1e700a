"""The aimed attack: one per detector whose score can be followed."""

from collections.abc import Collection

from torch import Tensor

from oodattack.attacks import Ball, Found, Samples, aimed
from oodattack.audit.kinds.kind import BatchAttack, Context, Detectors, Target
from oodattack.detectors import Detector


class Aimed:
    """See `oodattack.attacks.aimed`."""

    builds_on: str | None = "direct"

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:
        """The detectors whose score can be followed."""
        return [Target(name, detector.source) for name, detector in detectors.items() if name in followed]

    def concerns(self, target: str, name: str, detector: Detector) -> bool:  # noqa: ARG002
        """Only the target itself."""
        return name == target

    def on(self, target: str, context: Context) -> BatchAttack:
        """See `Kind`."""
        detector, ranks = context.detectors[target], context.follow(target).ranks

        def attack(samples: Samples, ball: Ball, lowest: Tensor | None) -> Found:
            assert lowest is not None  # noqa: S101 -- it builds on the direct attack
            return aimed(detector, ranks, samples, ball, lowest)

        return attack
