"""Figures of a run. Figures and the page of an audit are in `audit_figures` and `audit_table`.

Those are not imported here, because an audit's dependencies would cost an attack 300 MB and several seconds.
"""

from oodattack.report.draw import draw_run

__all__ = ["draw_run"]
