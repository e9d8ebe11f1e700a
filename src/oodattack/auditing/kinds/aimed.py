"""The aimed attack: one per detector whose score can be followed."""

from torch import Tensor

from oodattack.attacks import Ball, Found, Samples, aimed
from oodattack.auditing.kinds.direct import Direct
from oodattack.auditing.kinds.kind import BatchAttack, Context
from oodattack.detectors import Detector


class Aimed(Direct):
    """See `oodattack.attacks.aimed`; it has the targets of the direct attack."""

    builds_on: str | None = "direct"

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
