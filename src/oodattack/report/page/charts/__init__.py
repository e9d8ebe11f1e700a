"""Charts as SVG, each with a title, a description and a table of the same numbers. The style sheet has the colours."""

from oodattack.report.page.charts.dots import Dot, dots
from oodattack.report.page.charts.histogram import Bars, histogram
from oodattack.report.page.charts.lines import Line, lines
from oodattack.report.page.charts.scatter import Points, scatter

__all__ = ["Bars", "Dot", "Line", "Points", "dots", "histogram", "lines", "scatter"]
