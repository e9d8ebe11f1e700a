"""The command line, run in this process."""

import sys
from typing import NamedTuple

import pytest

from oodattack.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def oodattack(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run `oodattack ARGUMENTS` and return its exit code and output."""
    original = sys.argv
    sys.argv = ["oodattack", *map(str, arguments)]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    finally:
        sys.argv = original
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)
