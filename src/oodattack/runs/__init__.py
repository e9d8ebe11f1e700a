"""What a run leaves on disk: write, resume, verify, read. No torch needed to read one."""

from oodattack.runs.export import export_pngs
from oodattack.runs.rows import SCHEMA, png_name
from oodattack.runs.store import Run, open_run, start_run
from oodattack.runs.summary import Group, summarize

__all__ = ["SCHEMA", "Group", "Run", "export_pngs", "open_run", "png_name", "start_run", "summarize"]
