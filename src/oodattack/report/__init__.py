"""The pictures of a run."""

from oodattack.report.draw import draw_run

__all__ = ["draw_run"]
