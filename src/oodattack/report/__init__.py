"""The pictures of a run; those of an audit, and its page, are in `audit_figures` and `audit_table`.

Not imported here: an attack would pay for all that an audit needs with 300 MB and seconds.
"""

from oodattack.report.draw import draw_run

__all__ = ["draw_run"]
