"""Fit the detectors of an audit."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from oodattack.auditing.bench import Bench, fit_detector, fit_failed, open_in_worker, restore_fits
from oodattack.auditing.store import Audit
from oodattack.engines import Engine, OnStage, PerProcess, Report, exact


@dataclass(frozen=True)
class Fit:
    """Work: fit a detector, given by name, and store the fit in the audit. Returns why it failed, or None."""

    bench: PerProcess[Bench]
    audit: Audit

    def __call__(self, name: str, report: Report) -> str | None:  # noqa: ARG002 -- part of the protocol
        """See `oodattack.engines.Work`."""
        bench = self.bench.get()
        try:
            with exact():
                fit_detector(bench, name)
            state = bench.detectors[name].state_dict()
        except Exception as error:  # noqa: BLE001 -- the failure of one detector must not affect the others
            return fit_failed(error)
        if state is not None:
            self.audit.write_fit(name, state)
        return None


def fit_detectors(bench: Bench, audit: Audit, engine: Engine, on_stage: OnStage) -> Bench:
    """The bench with its detectors fitted; those whose fit fails become absent.

    Fits of pytorch-ood's detectors are stored in the audit; the engine computes only those that are missing. Your own
    detectors are fitted in each process that uses them.

    Raises:
        InputError: if no detector is left.
    """
    kept = audit.fits()
    missing = [name for name, detector in bench.detectors.items() if not detector.source and name not in kept]

    def chunks() -> Iterator[str]:
        for number, name in enumerate(missing):
            on_stage(f"fitting {name}", number, len(missing))
            yield name

    work = Fit(PerProcess(partial(open_in_worker, bench.settings, audit.read_header()), here=bench), audit)
    failed = {name: reason for name, reason in engine.map(work, chunks()) if reason is not None}
    if failed:
        bench = bench.without(failed)
    failed = restore_fits(bench, audit)
    return bench.without(failed) if failed else bench
