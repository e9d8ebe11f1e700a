"""`verify`: what kind of directory it is, and the two levels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oodattack.auditing.layout import LAYOUT as AUDIT
from oodattack.auditing.layout import RESULTS
from oodattack.core.errors import InputError
from oodattack.pipelines.verify.files import check_files, check_unhashed, is_older
from oodattack.pipelines.verify.findings import Findings
from oodattack.pipelines.verify.options import OnStage, Rescoring
from oodattack.pipelines.verify.rows import check_audit, check_rounds, check_run
from oodattack.runs import open_run
from oodattack.runs.store import LAYOUT as RUN
from oodattack.storage.layout import Layout
from oodattack.training.layout import LAYOUT as TRAINING
from oodattack.training.layout import ROUNDS, ROUNDS_FOLDER, round_images


def verify(path: Path, rescoring: Rescoring | None = None, *, on_stage: OnStage | None = None) -> Findings:
    """Check the directory of a run, an audit or a training.

    Level 1 compares every file with the hash that was recorded when it was written, JSON documents and tables with
    their schemas, and rows with the settings. Level 2 also measures every stored PNG again: that it has 8 bits and lies
    in the ball around its start, its MAPE and classes, and for audits every score and table.

    Args:
        path: the directory.
        rescoring: how to score the images again; None for level 1 only, which needs no torch.
        on_stage: called with the progress.

    Returns:
        What was compared, what differs, and what could not be checked.

    Raises:
        InputError: if it is no such directory, or the encoder or the images of an audit cannot be opened.

    >>> import tempfile
    >>> from oodattack.pipelines.attack import run_attack
    >>> from oodattack.settings.attack import AttackSettings
    >>> f = "python:torch.nn:Flatten,size=8,layer=output"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     settings = AttackSettings(
    ...         encoder=f, images="torchvision:FakeData", limit=2, start=("noise",), steps=3, out=Path(out) / "run"
    ...     )
    ...     run = run_attack(settings)
    ...     found = verify(run.path, Rescoring(trust=True))
    ...     found.differences, found.checked["files by their hash"], found.checked["PNGs re-scored"]
    ([], 2, 2)
    """
    path = Path(path)
    layout = _layout(path)
    findings = Findings(path, layout.noun)
    report = on_stage or (lambda _name, _done, _total: None)
    report("comparing hashes", 0, 1)
    documents, unusable = check_files(layout, findings)
    check_unhashed(layout, findings, finished=_is_finished(layout, path, documents))
    obstacle = _check_contents(layout, documents, unusable, findings)
    if rescoring is not None:
        if obstacle:
            findings.unchecked.append(f"no image was scored again: {obstacle}")
        else:
            _rescore(layout, documents, rescoring, findings, report)
    return findings


def _layout(path: Path) -> Layout:
    for layout in (RUN, AUDIT, TRAINING):
        if (path / layout.header).is_file():
            return layout
    raise InputError(
        f"expected the directory of a run, an audit or a training, got {path} without {RUN.header}, {AUDIT.header} or"
        f" {TRAINING.header}"
    )


def _is_finished(layout: Layout, path: Path, documents: Mapping[str, Any]) -> bool:
    """Whether the command that writes a directory has written everything."""
    if layout is not RUN:
        return (path / RESULTS).is_file()
    if RUN.header not in documents:
        return False
    run = open_run(path)
    return len(run.done()) == run.shard_count


def _check_contents(layout: Layout, documents: Mapping[str, Any], unusable: Sequence[str], findings: Findings) -> str:
    """Check rows and scores; returns why images cannot be scored again, or an empty text."""
    if layout is RUN and RUN.header in documents:
        check_run(open_run(findings.path), findings)
    consistent = layout is not AUDIT or check_audit(documents, findings)
    if layout is TRAINING:
        if (findings.path / ROUNDS_FOLDER).is_dir():
            inner = Findings(findings.path / ROUNDS_FOLDER, ROUNDS.noun)
            check_files(ROUNDS, inner)
            finished = _is_finished(layout, findings.path, documents) and not is_older(layout, findings.path)
            check_unhashed(ROUNDS, inner, finished=finished)
            findings.include(ROUNDS_FOLDER, inner)
        check_rounds(documents, findings)
        if any(file.is_file() for file in round_images(findings.path)):
            return (
                "those in rounds are compared by the hash and the columns of their files, and the figures recorded"
                f" beside them with {RESULTS}"
            )
        return "a training without rounds stores none"
    absent = [name for name in layout.documents if name not in documents]
    if absent:
        return f"there is no valid {absent[0]} of format {layout.format}"
    if layout is AUDIT and unusable:
        return f"{unusable[0]} cannot be read, or has other columns"
    return "" if consistent else f"scores.parquet does not fit {RESULTS}"


def _rescore(
    layout: Layout, documents: Mapping[str, Any], rescoring: Rescoring, findings: Findings, report: OnStage
) -> None:
    # Imported here, because level 1 needs no torch.
    if layout is RUN:
        from oodattack.pipelines.verify.rescore_run import rescore_run

        rescore_run(open_run(findings.path), rescoring, findings, report)
    else:
        from oodattack.pipelines.verify.rescore_audit import rescore_audit

        rescore_audit(documents, rescoring, findings, report)
