"""`oodattack compare`: several runs or audits side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from oodattack.cli.terminal import output_console, printable

if TYPE_CHECKING:
    from oodattack.report.page.elements import Cell
    from oodattack.report.page.elements import Table as Neutral

EXAMPLES = """[bold]Examples[/bold]

  oodattack compare before after

  oodattack compare plain exposed robust --out comparison.html"""


def compare(
    directories: Annotated[list[Path], typer.Argument(help="directories of runs, or of audits", show_default=False)],
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("comparison.html"),
) -> None:
    """Compare runs or audits: two models, two defences, before and after a change.

    Prints the settings that differ and the results side by side, and writes a page with both.
    """
    from oodattack.report.compare import kind_of, read_audits, read_runs

    if kind_of(directories) == "audit":
        from oodattack.report.page.compare_audits import audit_table, compare_audits  # costs runs 300 MB

        audits = read_audits(directories)
        page = compare_audits(audits, out)
        labels = [
            f"{path} (not finished)" if name in audits.unfinished else str(path)
            for name, path in zip(audits.all_names, directories, strict=True)
        ]
        _print(audits.all_names, labels, audits.settings, audit_table(audits))
    else:
        from oodattack.report.page.compare_runs import compare_runs, run_table

        runs = read_runs(directories)
        page = compare_runs(runs, out)
        _print(runs.names, list(map(str, directories)), runs.settings, run_table(runs))
    typer.echo(f"page      {page}")


def _print(
    names: Sequence[str],
    labels: Sequence[str],
    settings: Sequence[tuple[str, Sequence[str]]],
    results: "Neutral",
) -> None:
    from markupsafe import Markup

    def plain(cell: "Cell") -> str:
        return printable(Markup("{}").format(cell).striptags())

    console = output_console()
    for name, label in zip(names, labels, strict=True):
        console.print(printable(f"{name}  {label}"))
    differing = Table(title="Settings that differ", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("setting", *names):
        differing.add_column(heading, overflow="fold")
    for name, texts in settings:
        differing.add_row(name, *map(printable, texts))
    console.print(differing, soft_wrap=False) if settings else console.print("No settings differ.")
    if not results.rows:
        console.print("There is nothing to compare yet.")
        return
    table = Table(title=results.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(results.head):
        table.add_column(heading, justify="left" if number < 2 else "right", overflow="fold")
    for row in results.rows:
        table.add_row(*map(plain, row))
    console.print(table, plain(results.note), soft_wrap=False)
