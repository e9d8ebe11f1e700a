"""Level 1: are the files of a directory those that were written? No encoder and no torch are needed."""

import json
from pathlib import Path
from typing import Any, Never

import pyarrow as pa

from oodattack.core.errors import InputError
from oodattack.pipelines.verify.findings import EXPECTED, Findings
from oodattack.storage.hashes import recorded, sha256_of
from oodattack.storage.layout import Layout
from oodattack.storage.schema import faults
from oodattack.storage.tables import read_schema, read_table

MISSING = "missing"


def check_files(layout: Layout, findings: Findings) -> tuple[dict[str, Any], list[str]]:
    """Compare every file with its recorded hash, and with the published schema of its kind.

    Args:
        layout: the files of such a directory.
        findings: receives what is found.

    Returns:
        The JSON documents that are valid, by file name; and the names of the tables that cannot be read or have other
        columns.
    """
    hashed = _check_hashes(findings)
    documents = {}
    for name, schema in layout.documents.items():
        document = _read_document(name, schema, layout, findings)
        if document is not None:
            documents[name] = document
    current = documents.get(layout.header, {}).get("format") == layout.format  # older formats have other columns
    unusable = []
    for pattern, columns in layout.tables.items():
        for file in sorted(findings.path.glob(pattern)):
            name = _name(file, findings)
            if not _check_table(file, columns if current else None, findings, whole=name not in hashed):
                unusable.append(name)
    return documents, unusable


def _check_hashes(findings: Findings) -> set[str]:
    """Returns the names of the files that have their recorded hash."""
    hashed = set()
    known = recorded(findings.path)
    for name, digest in known.items():
        file = findings.path / name
        measured = sha256_of(file) if file.is_file() else MISSING
        findings.equal(name, "SHA-256", digest or MISSING, measured, words=("recorded when it was written", "now"))
        if digest == measured:
            hashed.add(name)
    findings.checked["files by their hash"] += len(known)
    return hashed


def check_unhashed(layout: Layout, findings: Findings, *, finished: bool) -> None:
    """Report the files that should have a recorded hash and have none.

    Args:
        layout: the files of such a directory.
        findings: receives them: as differences if the directory is finished and of the current format, otherwise as
            unchecked.
        finished: whether the command that writes the directory has finished, so that every file has had its hash.
    """
    known = recorded(findings.path)
    unknown = [name for name in (_name(file, findings) for file in layout.files(findings.path)) if name not in known]
    if not unknown:
        return
    older = is_older(layout, findings.path)
    if finished and not older:
        for name in unknown:
            findings.differ(name, "SHA-256", "none", "one that was recorded when the file was written", words=EXPECTED)
        return
    findings.unchecked.append(
        f"files without a recorded hash: {len(unknown)}, the first is {unknown[0]}; "
        + (
            f"versions before format {layout.format} recorded none"
            if older
            else "an interrupted command records them when it is repeated"
        )
    )


def is_older(layout: Layout, path: Path) -> bool:
    """Whether the header of a directory says that an earlier version wrote it, which recorded no hashes.

    >>> is_older(Layout("run", 4, {"run.json": "run"}), Path("no/such/run"))
    False
    """
    try:
        header = json.loads((path / layout.header).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    version = header.get("format") if isinstance(header, dict) else layout.format
    return version is None or (type(version) is int and version < layout.format)


def _read_document(name: str, schema: str | None, layout: Layout, findings: Findings) -> Any:
    """A JSON document; None if it does not exist or differs from its schema."""
    file = findings.path / name
    if not file.is_file():
        findings.unchecked.append(f"there is no {name}: the {layout.noun} is unfinished")
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        findings.differ(name, "JSON", str(error), "a JSON document", words=EXPECTED)
        return None
    if not isinstance(document, dict):
        findings.differ(name, "JSON", type(document).__name__, "an object", words=EXPECTED)
        return None
    if schema is None:
        return document
    version = document.get("format")
    if (type(version) is int and version < layout.format) or (version is None and name != layout.header):
        findings.unchecked.append(f"{name} has format {version}; schemas are published since format {layout.format}")
        # What follows can use it if it has all that newer ones have, as run.json of format 3 does.
        return None if faults({**document, "format": layout.format}, schema) else document
    found = faults(document, schema)
    for path, message in found:
        findings.differ(name, f"schema {schema}, {path}", message, "a valid document", words=EXPECTED)
    findings.checked["documents by their schema"] += 1
    return None if found else document


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is not a JSON number")


def _check_table(file: Path, columns: pa.Schema | None, findings: Findings, *, whole: bool) -> bool:
    """Compare the columns of a table with its schema, if any; returns whether it can be read and has them.

    ``whole`` reads all rows, which a correct hash makes needless.
    """
    name, before = _name(file, findings), len(findings.differences)
    try:
        found = read_schema(file)
        if whole:
            read_table(file)
    except InputError as error:
        findings.differ(name, "Parquet", str(error), "a readable table", words=EXPECTED)
        return False
    if columns is None:
        return True
    stored, expected = ({column.name: column.type for column in schema} for schema in (found, columns))
    for column in sorted({*stored, *expected}):
        if stored.get(column) != expected.get(column):  # equal types may print differently, as Parquet renames items
            one, other = (str(kinds[column]) if column in kinds else MISSING for kinds in (stored, expected))
            findings.differ(name, f"type of column {column}", one, other, words=EXPECTED)
    findings.checked["tables by their columns"] += 1
    return len(findings.differences) == before


def _name(file: Path, findings: Findings) -> str:
    return file.relative_to(findings.path).as_posix()
