"""What the tests of `verify` share: a small run, and edits of the files of a directory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oodattack.pipelines.attack import run_attack
from oodattack.pipelines.verify import Findings, Rescoring
from tests.test_runs import ROOT, settings, write_photos

TRUSTED = Rescoring(device="cpu", trust=True)


def make_run(folder: Path) -> Path:
    """A run of 12 rows in 3 shards, whose settings name Python code."""
    return run_attack(settings(write_photos(folder / "photos"), folder / "run", limit=3)).path


def differing(found: Findings) -> list[tuple[str, int | None, str]]:
    """File, row and name of every difference."""
    return [(difference.file, difference.row, difference.what) for difference in found.differences]


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a document."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2) + "\n")


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a table, which keeps its columns and metadata."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def flip(path: Path, place: int) -> None:
    """Flip the lowest bit of one byte; a negative place counts from the end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def verified_without_torch(path: Path) -> bool:
    """Whether level 1, in a new process, finds no difference and does not import torch."""
    code = (
        "import sys; from pathlib import Path; from oodattack.pipelines.verify import verify;"
        "print(verify(Path(sys.argv[1])).differences == [] and 'torch' not in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip() == "True"
