"""What people see of runs and audits: figures in `draw_run`, Markdown in `audit_table`, HTML in `page`.

The figures are imported on first use: a page needs no matplotlib. Nothing of an audit is imported here, because its
dependencies would cost an attack 300 MB and several seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodattack.report.draw import draw_run

__all__ = ["draw_run"]


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'oodattack.report' has no attribute {name!r}")
    from oodattack.report.draw import draw_run

    return draw_run
