"""The informed attack: one for all detectors that read the same."""

from collections.abc import Collection

from oodattack.attacks import informed
from oodattack.audit.kinds.kind import BatchAttack, Context, Detectors, Target, reading
from oodattack.audit.kinds.latent import Z
from oodattack.detectors import SHARED_VIEWS, Detector


class Informed:
    """See `oodattack.attacks.informed`. What reads z is not attacked again: the latent attack is the same."""

    builds_on_latent = False

    def targets(self, detectors: Detectors, followed: Collection[str]) -> list[Target]:  # noqa: ARG002
        """Every reading but z."""
        readings = dict.fromkeys(reading(name, detector) for name, detector in detectors.items())
        return [
            Target(what, "" if what in SHARED_VIEWS else _first_reader(what, detectors).source)
            for what in readings
            if what != Z
        ]

    def concerns(self, target: str, name: str, detector: Detector) -> bool:
        """The detectors that read the target."""
        return reading(name, detector) == target

    def on(self, target: str, context: Context) -> BatchAttack:
        """See `Kind`."""
        detector = _first_reader(target, context.detectors)
        f = context.subject.shared().get(target, detector.reads)
        return lambda samples, ball, _initial: informed(f, detector.parts, samples, ball)


def _first_reader(what: str, detectors: Detectors) -> Detector:
    """Of several detectors that share a reading, the one that is asked for it."""
    return next(detector for name, detector in detectors.items() if reading(name, detector) == what)
