"""`verify`: what kind of directory it is, and the two levels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodattack.audit.layout import LAYOUT as AUDIT
from oodattack.core.errors import InputError
from oodattack.pipelines.verify.files import check_files
from oodattack.pipelines.verify.findings import Findings
from oodattack.pipelines.verify.options import OnStage, Rescoring
from oodattack.pipelines.verify.rows import check_audit, check_run
from oodattack.runs import open_run
from oodattack.runs.store import LAYOUT as RUN
from oodattack.storage.layout import Layout
from oodattack.training.layout import LAYOUT as TRAINING


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
    documents = check_files(layout, findings)
    header = documents.get(layout.header)
    if layout is RUN and header is not None:
        check_run(open_run(path), findings)
    if layout is AUDIT:
        check_audit(documents, findings)
    if rescoring is not None:
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


def _rescore(
    layout: Layout, documents: Mapping[str, Any], rescoring: Rescoring, findings: Findings, report: OnStage
) -> None:
    absent = [name for name in layout.documents if name not in documents]
    if absent:
        findings.unchecked.append(f"nothing was scored again, because there is no valid {absent[0]}")
        return
    if layout is RUN:
        from oodattack.pipelines.verify.rescore_run import rescore_run

        rescore_run(open_run(findings.path), rescoring, findings, report)
    elif layout is AUDIT:
        from oodattack.pipelines.verify.rescore_audit import rescore_audit

        rescore_audit(documents, rescoring, findings, report)
    else:
        findings.unchecked.append("a training has no images to score again")
