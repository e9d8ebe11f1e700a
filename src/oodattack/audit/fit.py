"""Fitting detectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from oodattack.audit.bench import Bench, fit_failed, open_bench, restore_fits
from oodattack.audit.store import Audit
from oodattack.engines import Engine, PerProcess, Report, exact

Tell = Callable[[str, int, int], None]
"""Reports progress: what is being done, how much of it is finished, of how much."""


@dataclass(frozen=True)
class Fit:
    """Work: fit the detector of a name and keep the fit. Returns why it failed, or None."""

    bench: PerProcess[Bench]
    audit: Audit

    def __call__(self, name: str, report: Report) -> str | None:  # noqa: ARG002 -- part of the protocol
        """See `oodattack.engines.Work`."""
        bench = self.bench.get()
        detector = bench.detectors[name]
        try:
            with exact():
                detector.fit(bench.inputs.train)
            state = detector.state_dict()
        except Exception as error:  # noqa: BLE001 -- one detector's fault must not cost the others their result
            return fit_failed(error)
        if state is not None:
            self.audit.write_fit(name, state)
        return None


def fit_detectors(bench: Bench, audit: Audit, engine: Engine, tell: Tell) -> Bench:
    """The bench with its detectors fitted; those that fail are absent from it.

    Fits of released detectors are kept in the audit, and fitted by the engine only if they are not there yet. A
    detector of one's own is fitted in each process that uses it.

    Raises:
        InputError: if no detector is left.
    """
    kept = audit.fits()
    missing = [name for name, detector in bench.detectors.items() if not detector.source and name not in kept]

    def chunks() -> Iterator[str]:
        for number, name in enumerate(missing):
            tell(f"fitting {name}", number, len(missing))
            yield name

    work = Fit(PerProcess(partial(open_bench, bench.settings), here=bench), audit)
    failed = {name: reason for name, reason in engine.map(work, chunks()) if reason is not None}
    if failed:
        bench = bench.without(failed)
    failed = restore_fits(bench, audit)
    return bench.without(failed) if failed else bench
