"""The batch size of an audit, measured once before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oodattack.auditing.bench import MAX_BATCH_SIZE, Bench
from oodattack.core.gradient import Autograd
from oodattack.core.pixels import dequantize
from oodattack.engines import PerProcess, Report, environment, exact, measure_batch_size, rows_that_fit

EVALUATIONS_PER_STEP = 10  # rough number per sample over all attacks, for which the batch size is measured


@dataclass(frozen=True)
class Measured:
    """How an audit computes; its header records it.

    Attributes:
        batch_size: number of samples per batch.
        environment: the machine on which this was measured, and its software versions.
    """

    batch_size: int
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class MeasureBatchSize:
    """Work: measure the batch size on the machine that runs it, one of the engine's workers."""

    bench: PerProcess[Bench]

    def __call__(self, chosen: int | None, report: Report) -> Measured:  # noqa: ARG002 -- part of the protocol
        """Measure, or adopt the batch size from the settings or from the audit being resumed; None if there is none."""
        bench = self.bench.get()
        with exact():
            return Measured(_measure(bench) if chosen is None else chosen, environment(bench.subject.device))


def _measure(bench: Bench) -> int:
    image = dequantize(bench.inputs.targets.images[:1]).to(bench.subject.device)
    samples = min(rows_that_fit(MAX_BATCH_SIZE, bench.subject.encoder.input_size), len(bench.inputs.targets.names))
    steps = EVALUATIONS_PER_STEP * bench.settings.steps
    return measure_batch_size(bench.subject.features.fast, Autograd(), image, samples=samples, steps=steps)
