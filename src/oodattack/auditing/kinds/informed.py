"""The informed attack: one for all detectors that read the same values."""

from collections.abc import Collection

from oodattack.attacks import informed
from oodattack.attacks.batch import Function
from oodattack.auditing.kinds.kind import BatchAttack, Context, Detectors, Target, reading
from oodattack.auditing.kinds.latent import Z
from oodattack.detectors import SHARED_VIEWS, Detector, Subject


class Informed:
    """See `oodattack.attacks.informed`. Detectors that read z are left to the latent attack, which is the same."""

    builds_on: str | None = None

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:  # noqa: ARG002
        """Every reading except z."""
        readings = dict.fromkeys(reading(name, detector) for name, detector in detectors.items())
        return [
            Target(what, "" if what in SHARED_VIEWS else _first_reader(what, detectors).source)
            for what in readings
            if what != Z
        ]

    def concerns(self, target: str, name: str, detector: Detector) -> bool:
        """The detectors that read the target."""
        return reading(name, detector) == target

    def matched(self, target: str, subject: Subject, detectors: Detectors) -> Function:
        """What the detectors read."""
        return subject.shared().get(target, _first_reader(target, detectors).reads)

    def on(self, target: str, context: Context) -> BatchAttack:
        """See `Kind`."""
        detector = _first_reader(target, context.detectors)
        f = self.matched(target, context.subject, context.detectors)
        return lambda samples, ball, _initial: informed(
            f, detector.parts, samples, ball, restarts=context.restarts, gradient=context.gradient
        )


def _first_reader(what: str, detectors: Detectors) -> Detector:
    """The first of the detectors that share a reading; it supplies the reading for all of them."""
    return next(detector for name, detector in detectors.items() if reading(name, detector) == what)
