"""Level 2 of an audit: every stored image is measured again, and every score and table computed again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oodattack.auditing.attack import follow_scores
from oodattack.auditing.bench import Bench, open_bench, restore_fits
from oodattack.auditing.ensemble import restore_ensemble
from oodattack.auditing.errors import one_line
from oodattack.auditing.inputs import IN
from oodattack.auditing.layout import NAME, RESULTS
from oodattack.auditing.plan import Attack, plan
from oodattack.auditing.score import score_images
from oodattack.auditing.store import Audit, Scores
from oodattack.core.errors import InputError
from oodattack.detectors import ENSEMBLE, Ensemble
from oodattack.engines import exact
from oodattack.images.live import OBJECT
from oodattack.pipelines.verify.attacked import check_attacked, check_samples
from oodattack.pipelines.verify.findings import EXPECTED, Findings
from oodattack.pipelines.verify.options import OnStage, Rescoring, opening
from oodattack.pipelines.verify.rescoring import is_same_encoder
from oodattack.pipelines.verify.tables import check_tables
from oodattack.settings.audit import AuditSettings

SCORES = "scores.parquet"
MIN_SCORE_SCALE = 1e-3  # a score that is a difference of float32 numbers around 1 is rounded by up to 1e-6


def rescore_audit(documents: Mapping[str, Any], options: Rescoring, findings: Findings, on_stage: OnStage) -> None:
    """Measure the images of a finished audit again, with its encoder, its stored fits and its images.

    Args:
        documents: audit.json and results.json.
        options: how.
        findings: receives what is found.
        on_stage: called with the progress.

    Raises:
        InputError: if the encoder or the images cannot be opened.
    """
    header, results = documents[NAME], documents[RESULTS]
    named = results["settings"]
    if any(name.startswith(OBJECT) for name in (named["train"], named["test"], *named["ood"])):
        findings.unchecked.append("no image was scored again: the audit was of images in Python, which have no file")
        return
    settings = AuditSettings.of({**options.applied(named), "out": findings.path, "batch_size": header["batch_size"]})
    on_stage("loading the encoder and the images", 0, 1)
    with opening():
        bench = open_bench(settings)
    if not is_same_encoder(NAME, header["inputs"]["encoder"], bench.subject.encoder, findings):
        return
    # The name that the results use.
    bench = replace(bench, settings=replace(settings, encoder=named["encoder"]))
    bench.subject.encoder.name = named["encoder"]
    audit = Audit(findings.path)
    _check_digests(bench, results, findings)
    stored = audit.read_scores()
    bench = _restored(bench, audit, results, stored, findings)
    with exact():
        followed, unfollowed = follow_scores(bench, stored)
    planned = plan(bench.settings, list(bench.inputs.sets), bench.detectors, followed)
    attacks = [attack for attack in planned if attack.key not in results["failures"]]
    samples = {name: check_samples(name, bench, findings) for name in bench.inputs.sets}
    usable = {}
    for number, attack in enumerate(attacks):
        on_stage("measuring attacked images", number, len(attacks))
        if check_attacked(attack, bench, samples, findings):
            usable[attack.key] = attack
    measured = _check_scores(bench, audit, usable, stored, findings, on_stage)
    if _is_complete(bench, attacks, results, stored, findings) and len(usable) == len(attacks):
        on_stage("computing the tables", 0, 1)
        check_tables(bench, audit, results, planned, followed | unfollowed, stored, measured, findings)
    else:
        findings.unchecked.append(f"{RESULTS} was not computed again: what it follows from is incomplete")


def _is_complete(
    bench: Bench, attacks: Sequence[Attack], results: Mapping[str, Any], stored: Scores, findings: Findings
) -> bool:
    """Whether the detectors of the results have scored all images of all sets and of all attacks that did not fail."""
    count = len(bench.inputs.targets.names)
    expected = {
        (name, key): len(images.names) for key, images in bench.inputs.clean.items() for name in bench.detectors
    }
    expected |= {
        (name, attack.key): count
        for attack in attacks
        for name, detector in bench.detectors.items()
        if attack.concerns(name, detector) and f"{attack.key} by {name}" not in results["failures"]
    }
    found = {(name, images): len(stored.get((name, images), ())) for name, images in expected}
    for (name, images), length in expected.items():
        what = f"number of scores of {name} on {images}"
        findings.equal(SCORES, what, found[name, images], length, words=EXPECTED)
    return found == expected and {row["name"] for row in results["detectors"]} <= set(bench.detectors)


def _check_digests(bench: Bench, results: Mapping[str, Any], findings: Findings) -> None:
    """Compare the images of every set with those that the audit used."""
    for name, digest in results["digests"].items():
        measured = bench.inputs.contents[name]() if name in bench.inputs.contents else "no such set"
        findings.equal(RESULTS, f"digests.{name}", digest, measured)
    findings.checked["sets of images by their digest"] += len(results["digests"])


def _restored(bench: Bench, audit: Audit, results: Mapping[str, Any], stored: Scores, findings: Findings) -> Bench:
    """The bench with the detectors whose scores are stored, fitted; the others must be absent with a reason."""
    names = {name for name, _ in stored}
    for name in names - {*bench.detectors, ENSEMBLE}:
        findings.differ(SCORES, "detector", name, "a detector of the settings", words=EXPECTED)
    absent = sorted(entry["name"] for entry in results["absent"])
    left_out = sorted({*(absent.name for absent in bench.absent), *bench.detectors} - names)
    findings.equal(RESULTS, "absent", ", ".join(absent), ", ".join(left_out), words=EXPECTED)
    bench = replace(bench, detectors={name: d for name, d in bench.detectors.items() if name in names})
    failed = restore_fits(bench, audit)
    for name, reason in failed.items():
        findings.differ(f"fits/{name}.pt", "fit", reason, "a fit that can be restored", words=EXPECTED)
    bench = replace(bench, detectors={name: d for name, d in bench.detectors.items() if name not in failed})
    if ENSEMBLE in names:
        try:
            bench = restore_ensemble(bench, audit)
        except InputError as error:
            findings.differ(f"fits/{ENSEMBLE}.pt", "fit", one_line(error), "a fit that can be restored", words=EXPECTED)
    return bench


def _check_scores(
    bench: Bench, audit: Audit, attacks: Mapping[str, Attack], stored: Scores, findings: Findings, on_stage: OnStage
) -> dict[tuple[str, str], Tensor]:
    """Compare the scores of the attacks whose images can be used, and of all sets that are not attacked.

    Returns the measured scores, and the stored ones where there is none.
    """
    measured = dict(stored)
    sets = [*bench.inputs.clean, *attacks]
    for number, name in enumerate(sets):
        on_stage("scoring the images again", number, len(sets))
        wanted = [
            d
            for d, images in stored
            if images == name and d in bench.detectors and not _follows(d, name, bench, stored)
        ]
        if name in attacks:
            images = audit.read_images(name, bench.inputs.starts[attacks[name].starts].names)
        else:
            images = bench.inputs.clean[name]
        scored = score_images(
            {d: bench.detectors[d] for d in wanted},
            images,
            bench.settings.batch_size or 1,
            bench.subject.device,
            lambda _step: None,
        )
        for detector, reason in scored.failed.items():
            findings.differ(SCORES, f"scores of {detector} on {name}", reason, "numbers", words=EXPECTED)
        for detector, values in scored.values.items():
            _compare(detector, name, stored, values, findings)
            if len(values) == len(stored[detector, name]):
                measured[detector, name] = values
    return measured | _check_ensemble(bench, stored, measured, findings)


def _follows(name: str, images: str, bench: Bench, stored: Scores) -> bool:
    """Whether scores are those of the ensemble on a set that all its members have scored, too."""
    ensemble = bench.detectors.get(name)
    return isinstance(ensemble, Ensemble) and all((member, images) in stored for member in ensemble.members)


def _check_ensemble(
    bench: Bench, stored: Scores, measured: Scores, findings: Findings
) -> dict[tuple[str, str], Tensor]:
    """Compare the scores of the ensemble with those that follow from the stored scores of its members.

    Returns what follows from the measured ones, for AUROC: where scores are dense, ranks change more than the scores.
    """
    ensemble, found = bench.detectors.get(ENSEMBLE), {}
    if not isinstance(ensemble, Ensemble):
        return {}
    for images in [images for name, images in stored if _follows(name, images, bench, stored)]:
        expected, found[ENSEMBLE, images] = (
            ensemble.combine({name: scores[name, images] for name in ensemble.members}) for scores in (stored, measured)
        )
        _compare(ENSEMBLE, images, stored, expected, findings)
    return found


def _compare(detector: str, images: str, stored: Scores, measured: Tensor, findings: Findings) -> None:
    """Compare the scores of a set; they may differ by a thousandth of their spread among in-distribution images."""
    inside = stored.get((detector, IN), torch.empty(0))
    finite = inside[inside.isfinite()]
    scale = max(float(finite.std(correction=0)) if len(finite) else 0.0, MIN_SCORE_SCALE)
    before = stored[detector, images]
    for row, (one, other) in enumerate(zip(before.tolist(), measured.tolist(), strict=False)):
        findings.close(SCORES, f"score of {detector} on {images}", one, other, row, scale=scale)
    findings.checked["scores"] += len(before)
