"""What the verbs share on a terminal: warnings, progress, numbers, and text from outside."""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

UNFINISHED = 3  # the exit code of an audit in which an attack failed
INTERRUPTED = 130


def printable(text: str) -> str:
    r"""Text from outside (file names, messages) without the control characters that a terminal would obey.

    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def percent(fraction: float) -> str:
    """A fraction as a percentage with three significant digits.

    >>> percent(0.000123), percent(0.2), percent(float("nan"))
    ('0.0123 %', '20 %', '–')
    """
    return "–" if math.isnan(fraction) else f"{100 * fraction:.3g} %"


def json_number(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity are none.

    >>> json_number(float("nan")), json_number(2)
    (None, 2)
    """
    return None if isinstance(value, float) and not math.isfinite(value) else value


def output_console() -> Console:
    """Standard output, for results; in a file or a pipe a line has room for a table."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120
    return console


def error_console(*, quiet: bool) -> Console:
    """Standard error, for progress and remarks."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bars(console: Console, unit: str) -> Iterator[Progress]:
    """Progress bars on standard error, only on a terminal."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """One bar, of the stage at hand; without a terminal a line for each stage. Yields what to call as it goes on."""
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
    """Warnings as one line each, without the file and line of code that no user knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kw: console.print(
            f"warning: {message}", style="bold yellow", markup=False
        )
        yield
