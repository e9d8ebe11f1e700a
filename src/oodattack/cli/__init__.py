"""The command line: one file per verb. Heavy imports are deferred to where they are used, so `--help` is instant."""

from oodattack.cli.app import main

__all__ = ["main"]
