"""`oodattack verify`: is a directory what its command wrote, and do its images do what it says?"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodattack.cli.options import Json, Quiet
from oodattack.cli.terminal import (
    DIFFERENT,
    error_console,
    json_number,
    output_console,
    plain_warnings,
    print_json,
    printable,
    stages,
)
from oodattack.core.errors import InputError

if TYPE_CHECKING:
    from oodattack.pipelines.verify import Difference, Findings

MAX_LINES = 20  # differences on the terminal; --json has all
EXAMPLES = r"""[bold]Examples[/bold]

  oodattack verify run

  oodattack verify audit --rescore --trust --json > verified.json

  oodattack verify downloaded/run --rescore \
      --encoder python:mymodels:net,weights=w.pth,size=224"""


def verify(
    directory: Annotated[Path, typer.Argument(help="directory of a run, an audit or a training")],
    rescore: Annotated[
        bool, typer.Option("--rescore", help="also measure every stored image again, with the encoder")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="with --rescore: the encoder, if it has another name here; its weights must be the same"
            " (default: as in the directory)",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="with --rescore: cpu | cuda | mps (default: the best available)", show_default=False),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="with --rescore: run code that the directory names, and load model files")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a directory of results, and say what differs: the file, the row, the stored and the measured value.

    Every file is compared with the hash recorded when it was written and with its published schema, and rows with the
    settings. This finds damage and edits; whoever changes the hashes as well is found by --rescore, which measures
    every stored PNG again: 8 bits, the ball around its start, MAPE, classes, and for audits all scores and tables.
    """
    if not rescore and (encoder is not None or device is not None or trust):
        raise InputError("expected --rescore with --encoder, --device or --trust, which only it uses; add it")
    console = error_console(quiet=quiet)
    with plain_warnings(console), stages(console) as bar:
        from oodattack.pipelines.verify import Rescoring, verify

        found = verify(directory, Rescoring(encoder, device, trust) if rescore else None, on_stage=bar)
    if json:
        print_json(_as_json(found))
    elif not quiet:
        _print(found)
    if found.differences:
        raise typer.Exit(DIFFERENT)


def _as_json(found: "Findings") -> Mapping[str, Any]:
    return {
        "directory": str(found.path),
        "kind": found.noun,
        "checked": dict(found.checked),
        "differences": [
            {key: json_number(value) for key, value in dataclasses.asdict(difference).items() if key != "words"}
            for difference in found.differences
        ],
        "unchecked": found.unchecked,
    }


def _print(found: "Findings") -> None:
    console = output_console()
    for what, count in found.checked.items():
        console.print(f"checked    {count} {what}")
    for reason in found.unchecked:
        console.print(printable(f"unchecked  {reason}"))
    for difference in found.differences[:MAX_LINES]:
        console.print(printable(f"differs    {_in_words(difference)}"))
    more = len(found.differences) - MAX_LINES
    if more > 0:
        console.print(f"           … and {more} more (--json lists all)")
    count = len(found.differences)
    console.print(
        f"{found.noun} in {printable(str(found.path))}: " + (f"{count or 'no'} difference{'s' * (count != 1)}")
    )


def _in_words(difference: "Difference") -> str:
    where = difference.file if difference.row is None else f"{difference.file}, row {difference.row}"
    one, other = difference.words
    return f"{where}: {difference.what}: {one} {_value(difference.stored)}, {other} {_value(difference.measured)}"


def _value(value: Any) -> str:
    """A value on one line; of a hash, the beginning."""
    if isinstance(value, float):
        return f"{value:.9g}"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text
