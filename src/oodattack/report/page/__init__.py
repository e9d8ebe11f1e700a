"""Pages in HTML: a folder or one file, which anyone can open without a server, a network or JavaScript."""

from oodattack.report.page.write import write_page

__all__ = ["write_page"]
