"""The figures of a run. The figures and the report of an audit are in `audit_figures` and `audit_table`.

These two are not imported here, because an audit's dependencies would cost an attack 300 MB and several seconds.
"""

from oodattack.report.draw import draw_run

__all__ = ["draw_run"]
