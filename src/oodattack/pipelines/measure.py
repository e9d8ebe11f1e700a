"""Measurements made once before a run begins: number formats and the batch size."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from oodattack.core.methods import get_method
from oodattack.core.pixels import dequantize
from oodattack.engines import PerProcess, Report, environment, exact, measure_batch_size
from oodattack.pipelines.inputs import Inputs
from oodattack.runs import Run
from oodattack.speed import prepare
from oodattack.speed.prepared import Prepared
from oodattack.speed.timing import faster_in_16_bits


@dataclass(frozen=True)
class Speed:
    """How a run computes; the header of the run records it.

    Attributes:
        half: whether convolutions compute their gradient in bfloat16.
        rough: whether the encoder has a twin in bfloat16.
        batch_size: number of samples per batch.
        environment: the machine on which this was measured, and its software versions.
    """

    half: bool
    rough: bool
    batch_size: int
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """Work: measure the speed on the machine that runs it, one of the engine's workers.

    A run that is resumed keeps its number formats and batch size.
    """

    inputs: PerProcess[Inputs]

    def __call__(self, begun: Run | None, _report: Report) -> Speed:
        """Measure, or adopt what an existing run records.

        Args:
            begun: the run to resume, or None.
        """
        inputs = self.inputs.get()
        with exact():
            if begun is None:
                half, rough, fast = _choose_formats(inputs)
            else:
                half, rough = begun.header["half"], begun.header["rough"]
                fast = prepare(inputs.encoder, half=half, rough=rough)
                if rough and not _has_twin(fast):
                    warnings.warn(
                        f"the bfloat16 twin that {begun.path} was begun with cannot be created here: its rows may"
                        " differ in the last digits from those of an uninterrupted run",
                        stacklevel=2,
                    )
            inputs.prepared[half, rough] = fast
            batch_size = inputs.plan.settings.batch_size
            if batch_size is None:
                batch_size = _measure_batch_size(inputs, fast) if begun is None else begun.header["batch_size"]
        return Speed(half, rough, batch_size, environment(inputs.device))


def _choose_formats(inputs: Inputs) -> tuple[bool, bool, nn.Module]:
    """Whether 16 bits are faster for gradients and for the twin, and the encoder prepared accordingly."""
    settings = inputs.plan.settings
    half = faster_in_16_bits(inputs.device)
    usable = get_method(settings.method).uses_twin and inputs.gradient.passes > 0
    fast = prepare(inputs.encoder, half=half, rough=None if usable else False)
    return half, _has_twin(fast), fast


def _measure_batch_size(inputs: Inputs, fast: nn.Module) -> int:
    settings = inputs.plan.settings
    image = dequantize(inputs.plan.first_start()[None]).to(inputs.device)
    steps = settings.steps * settings.restarts
    return measure_batch_size(fast, inputs.gradient, image, samples=len(inputs.plan), steps=steps)


def _has_twin(fast: nn.Module) -> bool:
    return isinstance(fast, Prepared) and fast.rough_twin is not None
