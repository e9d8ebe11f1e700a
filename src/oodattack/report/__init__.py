"""The pictures of a run, the pictures and the page of an audit."""

from oodattack.report.audit_figures import draw_audit
from oodattack.report.audit_table import audit_markdown, write_audit
from oodattack.report.draw import draw_run

__all__ = ["audit_markdown", "draw_audit", "draw_run", "write_audit"]
