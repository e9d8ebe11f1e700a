"""The command line: one file per command. Heavy imports are deferred to their first use, so `--help` is instant."""

from oodattack.cli.app import main

__all__ = ["main"]
