"""The program: its commands, exit codes and error messages."""

import sys
from typing import Annotated

import typer

from oodattack._version import __version__
from oodattack.cli import attack, audit, compare, demo, page, show, train, verify
from oodattack.cli.terminal import BAD_INPUT, printable
from oodattack.core.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oodattack {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 success; 2 invalid input (finished work is kept); 3 an audit in which an attack failed; 4"
    " an audit that does not meet a --require (whether or not an attack failed), or differences found by `verify`; 130"
    " interrupted by Ctrl-C (repeat the command to resume); 1 an error in the program itself."
)
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Does an out-of-distribution image detector hold up when someone tries to fool it?

    Start with [bold]oodattack demo[/bold]: it needs no files and no network, and takes about a minute.
    """


app.command("demo")(demo.demo)
app.command("attack", epilog=attack.EXAMPLES)(attack.attack)
app.command("audit", epilog=audit.EXAMPLES)(audit.audit)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("show", epilog=show.EXAMPLES)(show.show)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("page", epilog=page.EXAMPLES)(page.page)
app.command("open")(page.open_page)


def main() -> None:
    """Run the program; invalid input ends in a one-sentence error instead of a traceback."""
    try:
        app(prog_name="oodattack")
    except InputError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(BAD_INPUT)
