"""Score images with the detectors of an audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from oodattack.auditing.bench import Bench, open_fitted_bench
from oodattack.auditing.data import ImageSet
from oodattack.auditing.ensemble import open_audited_bench
from oodattack.auditing.errors import one_line
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit, Scores
from oodattack.core.errors import InputError
from oodattack.detectors import Detector
from oodattack.engines import Engine, OnStage, PerProcess, Report, Step, exact, in_batches
from oodattack.engines.memory import out_of_memory


@dataclass(frozen=True)
class Scored:
    """The scores that detectors give to one set of images.

    Attributes:
        values: scores (N,) in float64, by detector.
        failed: by detector that failed, the reason.
        unreadable: why the images cannot be read; None if they can.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    unreadable: str | None = None


def score_images(
    detectors: Mapping[str, Detector], images: ImageSet, batch_size: int, device: torch.device, report: Report
) -> Scored:
    """Score a set with several detectors. One fails if it raises an error, returns NaN, or returns a wrong shape."""
    failed: dict[str, str] = {}

    def compute(rows: range) -> dict[str, Tensor]:
        report(Step(rows.start, len(rows), 0.0))
        batch = images.rows(rows, device)
        found = {}
        for name, detector in detectors.items():
            if name in failed:
                continue
            try:
                # Your own detectors get a copy: one that writes into its images must not change those of the others.
                found[name] = _checked(detector.score(batch.clone() if detector.source else batch), len(batch))
            except Exception as error:
                if out_of_memory(error) and len(rows) > 1:
                    raise  # a smaller batch may fit
                failed[name] = f"it does not score {images.name}: {one_line(error)}"
        return found

    with exact():
        parts = [part for _, part in in_batches(range(len(images.names)), batch_size, compute)]
    return Scored({name: torch.cat([part[name] for part in parts]) for name in detectors if name not in failed}, failed)


def _checked(scores: Tensor, count: int) -> Tensor:
    scores = scores.detach().cpu().double()
    if scores.shape != (count,):
        raise InputError(f"expected {count} scores for {count} images, got shape {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise InputError("expected scores that are numbers, got NaN among them")
    return scores


@dataclass(frozen=True)
class ScoreClean:
    """Work: score a set of images without an attack, given by name."""

    bench: PerProcess[Bench]
    batch_size: int

    def __call__(self, name: str, report: Report) -> Scored:
        """See `oodattack.engines.Work`."""
        bench = self.bench.get()
        return score_images(bench.detectors, bench.inputs.clean[name], self.batch_size, bench.subject.device, report)


@dataclass(frozen=True)
class ScoreAttacked:
    """Work: score the images that an attack found with the detectors that it concerns."""

    bench: PerProcess[Bench]
    audit: Audit
    batch_size: int

    def __call__(self, attack: Attack, report: Report) -> Scored:
        """See `oodattack.engines.Work`."""
        bench = self.bench.get()
        try:
            images = self.audit.read_images(attack.key, bench.inputs.starts[attack.starts].names)
        except InputError as error:
            return Scored(unreadable=one_line(error))
        concerned = {name: d for name, d in bench.detectors.items() if attack.concerns(name, d)}
        return score_images(concerned, images, self.batch_size, bench.subject.device, report)


def score_clean(bench: Bench, audit: Audit, batch_size: int, engine: Engine, on_stage: OnStage) -> tuple[Bench, Scores]:
    """Score every set of images that is not attacked.

    Returns:
        The bench without the detectors that failed on one of the sets, and the scores by detector and set.

    Raises:
        InputError: if no detector is left.
    """
    here = PerProcess(partial(open_fitted_bench, bench.settings, audit, tuple(bench.detectors)), here=bench)
    scores: dict[tuple[str, str], Tensor] = {}
    failed: dict[str, str] = {}
    sets = bench.inputs.clean

    def on_step(images: str, step: Step) -> None:
        on_stage(f"scoring {images}", step.rows_done, len(sets[images].names))

    for images, scored in engine.map(ScoreClean(here, batch_size), sets, on_step=on_step):
        scores |= {(name, images): values for name, values in scored.values.items()}
        failed = {**scored.failed, **failed}
    if failed:
        bench = bench.without(failed)
    return bench, {key: values for key, values in scores.items() if key[0] in bench.detectors}


def score_attacked(
    bench: Bench, audit: Audit, attacks: Sequence[Attack], batch_size: int, engine: Engine, on_stage: OnStage
) -> tuple[Scores, dict[str, str]]:
    """Score the images of finished attacks.

    Returns:
        The scores by detector and attack, and the reasons of failures: by the key of an attack whose images cannot be
        read, or by ``KEY by DETECTOR``.
    """
    here = PerProcess(partial(open_audited_bench, bench.settings, audit, tuple(bench.detectors)), here=bench)
    scores: dict[tuple[str, str], Tensor] = {}
    failures: dict[str, str] = {}

    def on_step(attack: Attack, step: Step) -> None:
        on_stage(f"scoring {attack.key}", step.rows_done, len(bench.inputs.targets.names))

    for attack, scored in engine.map(ScoreAttacked(here, audit, batch_size), attacks, on_step=on_step):
        scores |= {(name, attack.key): values for name, values in scored.values.items()}
        failures |= {f"{attack.key} by {name}": reason for name, reason in scored.failed.items()}
        if scored.unreadable is not None:
            failures[attack.key] = scored.unreadable
    return scores, failures
