"""Pages in HTML: a folder or one file, which anyone can open without a server, a network or JavaScript."""

from oodattack.report.page.write import check_showable, write_page

__all__ = ["check_showable", "write_page"]
