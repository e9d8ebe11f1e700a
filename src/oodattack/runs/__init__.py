"""Runs on disk: writing, resuming and reading them. Reading one needs no torch."""

from oodattack.runs.card import write_card
from oodattack.runs.export import export_pngs
from oodattack.runs.rows import SCHEMA, png_name
from oodattack.runs.run import Run, ShardRecord
from oodattack.runs.store import find_run, open_run, start_run
from oodattack.runs.summary import Group, summarize

__all__ = [
    "SCHEMA",
    "Group",
    "Run",
    "ShardRecord",
    "export_pngs",
    "find_run",
    "open_run",
    "png_name",
    "start_run",
    "summarize",
    "write_card",
]
