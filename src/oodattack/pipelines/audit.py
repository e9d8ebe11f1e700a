"""The audit: fit, attack, score, compare."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from oodattack.audit.attack import follow_scores, run_attacks
from oodattack.audit.bench import MAX_BATCH_SIZE, Bench, open_bench
from oodattack.audit.describe import describe
from oodattack.audit.fit import fit_detectors
from oodattack.audit.outside import open_witnesses, still_outside
from oodattack.audit.plan import plan
from oodattack.audit.score import score_attacked, score_clean
from oodattack.audit.store import FORMAT, NAME, Audit, begun_header, is_begun
from oodattack.audit.tables import audited, tabulate, work_of, worst_scores
from oodattack.core.gradient import Autograd
from oodattack.core.pixels import dequantize
from oodattack.engines import (
    Engine,
    LocalEngine,
    environment,
    exact,
    keep_freed_memory,
    measure_batch_size,
    rows_that_fit,
)
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import identity, saved
from oodattack.storage.directory import claim

EVALUATIONS_PER_STEP = 10  # rough number per sample over all attacks, for which the batch size is measured


@dataclass(frozen=True)
class Stage:
    """Progress of an audit.

    Attributes:
        name: what is being done.
        done: how much of it is done.
        total: the total to be done.
    """

    name: str
    done: int
    total: int


def run_audit(
    settings: AuditSettings,
    *,
    on_progress: Callable[[Stage], None] | None = None,
    engine: Engine = LocalEngine(),  # noqa: B008 -- immutable
) -> Audit:
    """Fit detectors, attack them, and write a directory with scores and tables; an existing audit is resumed.

    Fits and shards of attacks are stored as soon as they are finished, so that the same command resumes after Ctrl-C, a
    crash or a power cut. In the same way, detectors, attacks, radii, budgets, natural sets and witnesses can be added
    to a finished audit: nothing is computed twice.

    Args:
        settings: the settings of the audit.
        on_progress: called whenever the stage changes.
        engine: computes fits, scores and attacks.

    Returns:
        The finished audit.

    Raises:
        InputError: for invalid input; earlier results are kept.
        KeyboardInterrupt: after Ctrl-C.

    >>> import tempfile
    >>> from pathlib import Path
    >>> images = "torchvision:FakeData"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     audit = run_audit(AuditSettings(
    ...         encoder="python:tests.factories:tiny", train=images, test=images, start=("noise",), limit=2,
    ...         fit_limit=4, detectors=("MaxLogit",), attacks=("latent",), steps=2, out=Path(folder)))
    ...     [row["name"] for row in audit.read_results()["detectors"]]
    ['MaxLogit']
    """
    keep_freed_memory()

    def on_stage(name: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Stage(name, done, total))

    on_stage("loading the encoder and the images", 0, 1)
    bench = open_bench(settings)
    witnesses = open_witnesses(settings)
    batch_size = _batch_size(bench)
    header = _header(bench, batch_size)
    with claim(settings.out, NAME, header, noun="audit", is_begun=is_begun), exact():
        audit = Audit(settings.out)
        audit.write_samples(bench.inputs.x_in, bench.inputs.starts)
        bench = fit_detectors(bench, audit, engine, on_stage)
        bench, clean = score_clean(bench, audit, batch_size, engine, on_stage)
        followed, unfollowed = follow_scores(bench, clean)
        attacks = plan(settings, bench.detectors, followed)
        failures = run_attacks(bench, audit, attacks, clean, batch_size, engine, on_stage)
        made = [attack for attack in attacks if attack.key not in failures]
        attacked, faults = score_attacked(bench, audit, made, batch_size, engine, on_stage)
        failures |= faults
        on_stage("measuring", 0, 1)
        done = [attack for attack in attacks if attack.key not in failures]
        rows = audited(bench.detectors, {**followed, **unfollowed}, attacks, failures)
        scores = {**clean, **attacked}
        scores |= worst_scores(settings, rows, scores)
        starts = bench.inputs.starts.names
        names = {name: images.names for name, images in bench.inputs.clean.items()}
        audit.write_scores(scores, {images: names.get(images, starts) for _, images in scores})
        audit.write_results(
            {
                "settings": saved(settings),
                "environment": header["environment"],
                "subject": describe(bench),
                "sets": {name: len(images) for name, images in names.items()} | {a.key: len(starts) for a in done},
                "distinct_starts": len(set(starts)),
                "skipped": bench.inputs.skipped(),
                "attacks": {attack.key: work_of(attack, audit) for attack in done},
                "detectors": tabulate(settings, rows, scores, starts),
                "absent": [asdict(absent) for absent in bench.absent],
                "failures": failures,
                "outside": still_outside(bench, witnesses, audit, done, batch_size),
            }
        )
        on_stage("measuring", 1, 1)
    return audit


def _header(bench: Bench, batch_size: int) -> dict[str, Any]:
    """The header of the directory; see `claim`."""
    return {
        "format": FORMAT,
        "settings": identity(bench.settings),
        "batch_size": batch_size,
        "inputs": {**bench.inputs.digests, "encoder": bench.subject.encoder.digest()},
        "environment": {**environment(bench.subject.device), "pytorch-ood": version("pytorch-ood")},
    }


def _batch_size(bench: Bench) -> int:
    """The batch size from the settings, else that of the audit being resumed, else measured on this machine."""
    settings = bench.settings
    begun = begun_header(settings.out)
    if settings.batch_size is not None:
        return settings.batch_size
    if begun is not None:
        return int(begun["batch_size"])
    image = dequantize(bench.inputs.starts.images[:1]).to(bench.subject.device)
    samples = min(rows_that_fit(MAX_BATCH_SIZE, bench.subject.encoder.input_size), len(bench.inputs.x_in.names))
    return measure_batch_size(
        bench.subject.features.fast, Autograd(), image, samples=samples, steps=EVALUATIONS_PER_STEP * settings.steps
    )
