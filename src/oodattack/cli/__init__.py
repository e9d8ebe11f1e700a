"""The command line: one file a verb. Heavy imports are made where they are used, so that `--help` answers at once."""

from oodattack.cli.app import main

__all__ = ["main"]
