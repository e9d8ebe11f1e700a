"""Level 2 of an audit: its tables, computed again from the scores."""

from collections.abc import Iterator, Mapping
from typing import Any

from oodattack.auditing.bench import Bench
from oodattack.auditing.ensemble import accepted_by_all, scored_by_all
from oodattack.auditing.layout import RESULTS
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit, Scores, finite
from oodattack.auditing.tables import Audited, tabulate, work_of
from oodattack.pipelines.verify.findings import Findings

Path = tuple[str | int, ...]
BOOTSTRAP_SCALE = 20.0  # ends of intervals may differ by 0.02, as other versions of NumPy draw other samples
UNFINISHED = "unfinished"
NOT_FROM_SCORES = "finished"  # whether every attack ran: results.json alone knows of those that failed


def check_tables(
    bench: Bench,
    audit: Audit,
    results: Mapping[str, Any],
    attacks: Mapping[str, Attack],
    stored: Scores,
    measured: Scores,
    findings: Findings,
) -> None:
    """Compare the tables with those that follow from the stored scores, and AUROC also with the measured ones.

    Args:
        bench: a bench with fitted detectors.
        audit: the audit.
        results: the contents of results.json.
        attacks: the attacks by key.
        stored: the scores in scores.parquet.
        measured: the scores computed again.
        findings: receives what is found.
    """
    made = {key: attack for key, attack in attacks.items() if any((audit.path / "attacks" / key).glob("*.parquet"))}
    work = {key: work_of(attack, audit) for key, attack in made.items()}
    _compare("attacks", results["attacks"], work, findings)
    rows = [
        Audited(
            row["name"],
            bench.detectors.get(row["name"], next(iter(bench.detectors.values()))),
            row["applicable"]["direct"],
            None,
            [made[key] for key in row["attacked"] if key in made and (row["name"], key) in stored],
            [],
        )
        for row in results["detectors"]
        if all((row["name"], images) in stored for images in bench.inputs.clean)
    ]
    evaluations = {key: found["gradient_evaluations"] for key, found in work.items()}
    names = {row["name"]: row for row in results["detectors"]}
    for scores, every in ((stored, True), (measured, False)):
        for found in tabulate(bench.settings, rows, scores, bench.inputs, evaluations):
            before = names[found["name"]]
            for part in ("sets", "attacked"):
                _compare(f"detectors.{found['name']}.{part}", before[part], found[part], findings, every=every)
            if every and before["verdict"] != UNFINISHED:
                findings.equal(RESULTS, f"detectors.{found['name']}.verdict", before["verdict"], found["verdict"])
    if results["jointly"] is not None:
        members = results["jointly"]["members"]
        if all((name, images) in stored for name in members for images in bench.inputs.clean):
            by_all = scored_by_all(members, list(made.values()), stored)
            expected = accepted_by_all(bench.settings, members, by_all, stored, bench.inputs)
            _compare("jointly", results["jointly"], expected, findings)
    findings.checked["tables of detectors"] += len(rows)


def _compare(what: str, stored: Any, measured: Any, findings: Findings, *, every: bool = True) -> None:
    """Compare JSON values; unless ``every``, only values of AUROC, which may differ by a thousandth."""
    one, other = dict(_leaves(stored)), dict(_leaves(finite(measured)))
    for path in sorted({*one, *other}, key=str):
        if path[-1] == NOT_FROM_SCORES or (not every and path[-2:] != ("auroc", "value")):
            continue
        name = ".".join(map(str, (what, *path)))
        before, now = one.get(path, "missing"), other.get(path, "missing")
        if before == UNFINISHED or _is_of_unfinished(path, one):
            continue
        if isinstance(before, str) or isinstance(now, str):
            findings.equal(RESULTS, name, before, now)
        else:
            scale = BOOTSTRAP_SCALE if path[-1] in ("low", "high") else 0.0 if every else 1.0
            findings.close(RESULTS, name, before, now, scale=scale)


def _is_of_unfinished(path: Path, leaves: Mapping[Path, Any]) -> bool:
    """Whether a value, such as the smallest eps at which a detector is broken, depends on an attack that failed."""
    return path[-1] == "falls_at" and UNFINISHED in leaves.values()


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The numbers and texts in a JSON value, with where they are."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place))
    else:
        yield path, value
