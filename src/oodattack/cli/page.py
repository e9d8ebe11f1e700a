"""`oodattack page` writes the page of a run, an audit or a training again; `oodattack open` opens it."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from oodattack.cli.terminal import shell_command
from oodattack.core.errors import InputError

EXAMPLES = """[bold]Examples[/bold]

  oodattack page run

  oodattack page run --single-file --out run.html"""
Directory = Annotated[
    Path, typer.Argument(help="directory of a run, an audit, or a training with rounds", show_default=False)
]


def page(
    directory: Directory,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="write one file with small images, to send or to attach")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="folder, or file with --single-file (default: DIRECTORY/page, DIRECTORY/page.html)"),
    ] = None,
) -> None:
    """Write the page of a run, an audit or a training with rounds, finished or not.

    It has the verdict, tables, figures and a gallery of images.
    It opens without a server, a network or JavaScript, and can be printed.
    """
    from oodattack.report.page import write_page

    typer.echo(write_page(directory, out=out, single_file=single_file))


def open_page(directory: Directory) -> None:
    """Open the page of a run, an audit or a training in the browser."""
    found = [path for path in (directory / "page" / "index.html", directory / "page.html") if path.is_file()]
    if not found:
        from oodattack.report.page import check_showable

        check_showable(directory)
        remedy = shell_command("page", directory)
        raise InputError(f"expected a directory with a page, got {directory}; `{remedy}` writes one")
    address = found[0].resolve().as_uri()
    if not webbrowser.open(address):
        raise InputError(f"expected a browser to open {address}, found none; open it yourself")
    typer.echo(address)
