"""Terminal output that the commands share: exit codes, warnings, progress, JSON, numbers, and untrusted text."""

import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from oodattack.api.progress import bars

# Exit codes.
BAD_INPUT = 2
UNFINISHED = 3  # an audit in which an attack failed
UNMET = 4  # an audit that does not meet a requirement
DIFFERENT = 4  # a directory that is not what its command wrote
INTERRUPTED = 130


def printable(text: str) -> str:
    r"""Replace control characters, which a terminal would obey, in untrusted text (file names, messages).

    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def shell_command(*words: str | Path) -> str:
    """A command of this program, quoted so that it can be copied into a shell.

    >>> shell_command("open", Path("my run"))
    "oodattack open 'my run'"
    """
    return shlex.join(["oodattack", *map(str, words)])


def percent(fraction: float) -> str:
    """Format a fraction as a percentage with three significant digits.

    >>> percent(0.000123), percent(0.2), percent(float("nan"))
    ('0.0123 %', '20 %', '–')
    """
    return "–" if math.isnan(fraction) else f"{100 * fraction:.3g} %"


def json_number(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, with None.

    >>> json_number(float("nan")), json_number(2)
    (None, 2)
    """
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def output_console() -> Console:
    """Standard output, for results; output to files and pipes is wide enough for a table."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120
    return console


def error_console(*, quiet: bool) -> Console:
    """Standard error, for progress and messages."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for the current stage (without a terminal, one line per stage); yields its update function."""
    with bars(console, "") as progress:
        task = progress.add_task("", total=None)
        last = ""

        def update(name: str, done: int, total: int) -> None:
            nonlocal last
            stage = name.partition(", loss")[0]
            if stage != last:
                progress.reset(task, total=total)
                if not console.is_terminal:
                    console.print(printable(stage), style="dim")
                last = stage
            progress.update(task, description=printable(name), completed=done, total=total)

        yield update


@contextmanager
def plain_warnings(console: Console) -> Iterator[None]:
    """Print each warning on one line, without its source location, which means nothing to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kw: console.print(
            f"warning: {message}", style="bold yellow", markup=False
        )
        yield


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """On Ctrl-C, report where the finished work is and how to resume, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; finished work is saved in {out}. Repeat the command to resume\n")
        raise typer.Exit(INTERRUPTED) from None
