"""Progress bars, in terminals and notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from torch import Tensor

    from oodattack.engines import Progress as Stage


@contextmanager
def bars(console: Console, unit: str) -> Iterator[Progress]:
    """Show progress bars, if the console is a terminal or a notebook."""
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
    shown = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        yield progress


@contextmanager
def attack_bar(console: Console, steps: int, restarts: int) -> "Iterator[Callable[[int, Tensor], None]]":
    """Show the progress of an attack; yields its callback, see `oodattack.core.algorithm.Callback`."""
    with bars(console, "steps") as progress:
        task = progress.add_task("attacking", total=steps)
        tries, last = 1, 0

        def update(step: int, figure: "Tensor") -> None:
            nonlocal tries, last
            tries += step <= last  # a try begins again with step 1
            last = step
            which = f"try {tries} of {restarts}, " if restarts > 1 else ""
            progress.update(
                task, completed=step, description=f"attacking, {which}median {float(figure.nanmedian()):.3g}"
            )

        yield update


@contextmanager
def audit_bar(console: Console) -> "Iterator[Callable[[Stage], None]]":
    """Show the stage of an audit; yields the function that updates it."""
    with bars(console, "") as progress:
        task = progress.add_task("", total=None)
        yield lambda now: progress.update(task, description=now.name, completed=now.done, total=now.total)
