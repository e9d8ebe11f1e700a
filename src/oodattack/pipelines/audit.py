"""The audit: fit, attack, score, compare."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

from oodattack.auditing.attack import follow_scores, run_attacks
from oodattack.auditing.batch_size import MeasureBatchSize
from oodattack.auditing.bench import Bench, open_bench, open_in_worker
from oodattack.auditing.ensemble import add_ensemble
from oodattack.auditing.fit import fit_detectors
from oodattack.auditing.inputs import IN_DISTRIBUTION
from oodattack.auditing.layout import LAYOUT
from oodattack.auditing.outside import open_witnesses
from oodattack.auditing.plan import plan
from oodattack.auditing.required import check_names
from oodattack.auditing.results import compute_results
from oodattack.auditing.score import score_attacked, score_clean
from oodattack.auditing.store import Audit, begun_header, is_begun
from oodattack.detectors import ENSEMBLE
from oodattack.engines import (
    Engine,
    LocalEngine,
    PerProcess,
    Progress,
    environment,
    exact,
    keep_freed_memory,
    logged_stages,
    run_one,
)
from oodattack.settings.audit import AuditSettings
from oodattack.settings.saved import identity, saved
from oodattack.storage.directory import claim

LOCAL = LocalEngine()
logger = logging.getLogger(__name__)


def run_audit(
    settings: AuditSettings,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    engine: Engine = LOCAL,
) -> Audit:
    """Fit detectors, attack them, and write a directory with scores and tables; an existing audit is resumed.

    Fits and shards of attacks are stored as soon as they are finished, so that the same command resumes after Ctrl-C, a
    crash or a power cut. In the same way, detectors, attacks, radii, budgets, sets of starts and witnesses can be added
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
    logged_stages(logger, on_progress)("loading the encoder and the images", 0, 1)
    return audit_bench(open_bench(settings), on_progress=on_progress, engine=engine)


def audit_bench(
    bench: Bench, *, on_progress: Callable[[Progress], None] | None = None, engine: Engine = LOCAL
) -> Audit:
    """Audit opened detectors, encoder and images; see `run_audit`.

    Args:
        bench: a bench whose detectors are not fitted yet. With other engines than `LocalEngine`, its settings must name
            the encoder and the images, because each worker opens them.
        on_progress: called whenever the stage changes.
        engine: computes fits, scores and attacks.
    """
    keep_freed_memory()
    on_stage = logged_stages(logger, on_progress)
    settings = bench.settings
    joint = [ENSEMBLE] * bool(settings.jointly)
    check_names(settings, [*bench.detectors, *joint, *(absent.name for absent in bench.absent)], bench.inputs.sets)
    witnesses = open_witnesses(settings)
    header = _header(bench, engine)
    batch_size = header["batch_size"]
    with claim(settings.out, LAYOUT, header, is_begun=is_begun), exact():
        audit = Audit(settings.out)
        for starts in bench.inputs.starts.values():
            audit.write_samples(bench.inputs.targets, starts)
        bench = fit_detectors(bench, audit, engine, on_stage)
        bench, clean = score_clean(bench, audit, batch_size, engine, on_stage)
        bench, clean = add_ensemble(bench, audit, clean)
        followed, unfollowed = follow_scores(bench, clean)
        attacks = plan(settings, list(bench.inputs.sets), bench.detectors, followed)
        failures = run_attacks(bench, audit, attacks, clean, batch_size, engine, on_stage)
        made = [attack for attack in attacks if attack.key not in failures]
        attacked, faults = score_attacked(bench, audit, made, batch_size, engine, on_stage)
        failures |= faults
        on_stage("measuring", 0, 1)
        scores = {**clean, **attacked}
        names = {name: images.names for name, images in bench.inputs.clean.items()}
        names |= {attack.key: bench.inputs.starts[attack.starts].names for attack in made}
        audit.write_scores(scores, names)
        how = {**followed, **unfollowed}
        audit.write_results(
            {
                "settings": saved(settings),
                "environment": header["environment"],
                "digests": {name: header["inputs"][name] for name in IN_DISTRIBUTION}
                | bench.inputs.digests(bench.inputs.sets),
                "absent": [asdict(absent) for absent in bench.absent],
                "failures": failures,
                **compute_results(bench, audit, attacks, how, scores, failures, witnesses, batch_size),
            }
        )
        on_stage("measuring", 1, 1)
    _log(bench, failures)
    return audit


def _log(bench: Bench, failures: Mapping[str, str]) -> None:
    """Log what the results lack; %r, because names of files may contain line breaks."""
    for absent in bench.absent:
        logger.info("left out %s: %r", absent.name, absent.reason)
    for images, skipped in bench.inputs.skipped().items():
        for reason in skipped.values():
            logger.warning("skipped an image of %s: %r", images, reason)
    for attack, reason in failures.items():
        logger.warning("failed %s: %r", attack, reason)


def _header(bench: Bench, engine: Engine) -> dict[str, Any]:
    """The header of the directory; see `claim`. An audit that is resumed keeps its batch size."""
    settings, begun = bench.settings, begun_header(bench.settings.out)
    inputs: dict[str, Any] = {**bench.inputs.digests(IN_DISTRIBUTION), "encoder": bench.subject.encoder.digest()}
    inputs["models"] = list(bench.model_digests)
    planned = environment(bench.subject.device) if begun is None else begun["environment"]
    worker = partial(open_in_worker, settings, {"inputs": inputs, "environment": planned})
    chosen = begun["batch_size"] if settings.batch_size is None and begun is not None else settings.batch_size
    measured = run_one(engine, MeasureBatchSize(PerProcess(worker, here=bench)), chosen)
    return {
        "settings": identity(settings),
        "batch_size": measured.batch_size,
        "inputs": inputs,
        "environment": {**measured.environment, "pytorch-ood": version("pytorch-ood")},
    }
