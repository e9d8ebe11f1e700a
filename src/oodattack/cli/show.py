"""`oodattack show`: draw the figures of a run again."""

from pathlib import Path
from typing import Annotated

import typer

from oodattack.cli.options import Json, Quiet
from oodattack.cli.running import print_summary
from oodattack.core.errors import InputError

# Directories of other commands, by the file that each contains, and what to open there.
_OTHERS = {"audit.json": ("an audit", "report.md or results.json"), "train.json": ("a training", "results.json")}
EXAMPLES = """[bold]Examples[/bold]

  oodattack show run

  oodattack show run --sample 0 --sample 7 --out figures"""


def show(
    run: Annotated[Path, typer.Argument(help="directory of a run")],
    sample: Annotated[
        list[int] | None,
        typer.Option(help="row to draw in the grid; repeat for several (default: a few)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the figures (default: RUN/figures)")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw the figures of a run, finished or not, and print its table.

    grid.png: x_in, start and x_out over the scatter of their latents (Figs. 1-3 of the paper); histogram.png: MAPE for
    each start (Fig. 4); eps.png: MAPE against eps; convergence.png: MAPE against gradient evaluations.
    """
    _refuse_others(run)
    from oodattack.report import draw_run
    from oodattack.runs import open_run

    opened = open_run(run)
    figures = draw_run(opened, out or run / "figures", samples=sample or None)
    print_summary(opened, figures, None, as_json=json, quiet=quiet)


def _refuse_others(path: Path) -> None:
    """Raise an InputError if the directory is that of another command."""
    for name, (noun, results) in _OTHERS.items():
        if (path / name).is_file():
            raise InputError(f"expected the directory of a run, got that of {noun}, {path}; open its {results} instead")
