"""`oodattack show`: the pictures of a run, made again."""

from pathlib import Path
from typing import Annotated

import typer

from oodattack.cli.running import tell

EXAMPLES = """[bold]Examples[/bold]

  oodattack show run

  oodattack show run --sample 0 --sample 7 --out pictures"""


def show(
    run: Annotated[Path, typer.Argument(help="directory of a run")],
    sample: Annotated[
        list[int] | None,
        typer.Option(help="rows to draw in the grid; give it again for more (default: a few)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the pictures (default: RUN/figures)")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the summary as JSON on standard output")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    """Draw the pictures of a run and print its table, finished or not.

    grid.png: x_in, start and x_out over the scatter of their latents (Figs. 1-3 of the paper); histogram.png: MAPE per
    start (Fig. 4); eps.png: MAPE against eps; convergence.png: MAPE against gradient evaluations.
    """
    from oodattack.report import draw_run
    from oodattack.runs import open_run

    opened = open_run(run)
    pictures = draw_run(opened, out or run / "figures", samples=sample or None)
    tell(opened, pictures, as_json=json, quiet=quiet)
