"""Level 2 of an audit: what results.json contains, computed again as the audit computed it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from oodattack.auditing.bench import Bench
from oodattack.auditing.layout import RESULTS
from oodattack.auditing.outside import open_witnesses
from oodattack.auditing.plan import Attack
from oodattack.auditing.results import compute_results, tabulate_detectors
from oodattack.auditing.store import Audit, Scores, finite
from oodattack.core.errors import InputError
from oodattack.encoders import Encoder
from oodattack.engines import exact
from oodattack.pipelines.verify.findings import Findings
from oodattack.pipelines.verify.leaves import Path, dotted, leaves
from oodattack.pipelines.verify.rescoring import MAPE_SCALE

# Numbers may differ by a thousandth of these. Ends of intervals: other versions of NumPy draw other samples.
SCALES = {"low": 20.0, "high": 20.0, "mape": MAPE_SCALE, "mape_before": MAPE_SCALE}
SCALES |= dict.fromkeys(("train_accuracy", "test_accuracy", "nearer_start", "flagged", "flagged_start"), 1.0)
SCALES |= dict.fromkeys(("ssim_start", "ssim_in"), 1.0)
# On how many images a gradient agrees with differences depends on rounding, and so on the processor.
COUNTS = re.compile(r"\d+(?: %)? of \d+")
MISSING = "missing"


def check_tables(
    bench: Bench,
    audit: Audit,
    results: Mapping[str, Any],
    attacks: Sequence[Attack],
    how: Mapping[str, str],
    stored: Scores,
    measured: Scores,
    findings: Findings,
) -> None:
    """Compare the results with those that follow from the stored scores, and AUROC also with the measured ones.

    Args:
        bench: a bench with fitted detectors, whose scores were followed.
        audit: the audit.
        results: the contents of results.json.
        attacks: all attacks that the settings plan. Those that have not failed have images and scores.
        how: by detector, how its score is followed or why it cannot be.
        stored: the scores in scores.parquet.
        measured: the scores computed again.
        findings: receives what is found.
    """
    failures, batch_size = results["failures"], bench.settings.batch_size or 1
    witnesses = _open_witnesses(bench, findings)
    with exact():
        found = compute_results(bench, audit, attacks, how, stored, failures, witnesses, batch_size)
        again = tabulate_detectors(bench, attacks, how, measured, failures, found["attacks"])
    names = {bench.settings.encoder, *witnesses}
    before = dict(leaves(_comparable({part: results[part] for part in found}, names)))
    _compare(before, dict(leaves(_comparable(finite(found), names))), findings)
    for path, value in leaves({"detectors": _by_name(again)}):
        if path[-2:] == ("auroc", "value"):
            findings.close(RESULTS, dotted(path), before.get(path), value, scale=1.0)
    findings.checked["tables of detectors"] += len(found["detectors"])


def _open_witnesses(bench: Bench, findings: Findings) -> dict[str, Encoder]:
    """The witnesses that can be loaded here."""
    found: dict[str, Encoder] = {}
    for name in bench.settings.witness:
        try:
            found |= open_witnesses(replace(bench.settings, witness=(name,)))
        except InputError as error:
            findings.unchecked.append(f"what the witness {name} sees was not computed again: {error}")
    return found


def _comparable(results: Mapping[str, Any], encoders: set[str]) -> dict[str, Any]:
    """Results with detectors by name, without reasons of skipped images, as seen by some of the encoders."""
    return {
        **results,
        "detectors": _by_name(results["detectors"]),
        "skipped": {name: dict.fromkeys(skipped, "skipped") for name, skipped in results["skipped"].items()},
        "outside": {
            key: {**found, "encoders": {name: seen for name, seen in found["encoders"].items() if name in encoders}}
            for key, found in results["outside"].items()
        },
    }


def _by_name(detectors: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in detectors}


def _compare(stored: Mapping[Path, Any], measured: Mapping[Path, Any], findings: Findings) -> None:
    for path in sorted({*stored, *measured}, key=str):
        before, now = stored.get(path, MISSING), measured.get(path, MISSING)
        if not isinstance(before, str) and not isinstance(now, str):
            findings.close(RESULTS, dotted(path), before, now, scale=SCALES.get(str(path[-1]), 0.0))
        elif COUNTS.sub("", str(before)) != COUNTS.sub("", str(now)):
            findings.differ(RESULTS, dotted(path), before, now)
