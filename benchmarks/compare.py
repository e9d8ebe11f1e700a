"""`python -m benchmarks.compare`: compare `fast` with other methods.

Every method gets the same images, starts, targets, ball and prepared encoder, and a separate run for each budget, since
step schedules depend on the budget. Step sizes are tuned on the first batch. All methods attack a batch before the next
batch starts, so that a slowdown of the machine affects all of them. Each result is written as soon as it is measured;
an interrupted comparison resumes with the same command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.attackers import Attacker, attackers
from benchmarks.inputs import Case, load_case, machine, start_program
from benchmarks.measure import Results, measure
from benchmarks.plot import draw, save
from benchmarks.table import Row, best_step, page, rows_of
from oodattack.cli.photographs import copy_photographs
from oodattack.core.errors import InputError
from oodattack.settings.attack import AttackSettings
from oodattack.storage.files import write_text


def compare(
    case: Case, methods: Sequence[Attacker], budgets: Sequence[int], out: Path, *, batch_size: int = 16
) -> list[Row]:
    """Run the measurements missing in ``out/results.json``; write ``table.md`` and ``compare.png`` after every budget.

    Args:
        case: the attack problem.
        methods: the methods to compare.
        budgets: numbers of steps, each run separately.
        out: folder of the results.
        batch_size: number of images attacked at once.

    Returns:
        One row for each budget and method.

    Raises:
        InputError: if the folder contains a different comparison, or one from another machine or version.
    """
    header = {**case.header, "batch_size": batch_size, "machine": machine()}
    results = Results(out / "results.json", header)
    batches = case.batches(batch_size)
    firsts = [rows.start for rows in batches]
    for attacker in methods:  # warm up: the first call is slow, if only because of imports
        measure(case, attacker, batches[0], 1, attacker.step_sizes[0], searched=True)
    rows: list[Row] = []
    budgets = sorted(budgets)
    for number, steps in enumerate(budgets, start=1):
        for attacker in methods:
            for step_size in attacker.step_sizes:
                _fill(results, case, attacker, batches[0], steps, step_size, searched=False)
        for batch in batches:
            for attacker in methods:
                best = best_step(results, attacker, steps)
                _fill(results, case, attacker, batch, steps, best, searched=False)
                _fill(results, case, attacker, batch, steps, best, searched=True)
        rows = rows_of(results, methods, budgets[:number], firsts)
        write_text(out / "table.md", page(rows, header))
        save(draw(rows, header), out / "compare.png")
    return rows


def _fill(
    results: Results,
    case: Case,
    attacker: Attacker,
    rows: slice,
    steps: int,
    step_size: float | None,
    *,
    searched: bool,
) -> None:
    """Run a measurement unless it was already done, in an earlier session or under another label."""
    if (attacker.name, step_size, steps, searched, rows.start) not in results.measured:
        results.add(measure(case, attacker, rows, steps, step_size, searched=searched))


def parse_budgets(text: str) -> list[int]:
    """Parse a comma-separated list of numbers of steps.

    Raises:
        InputError: if one of them is not an integer of at least 1.

    >>> parse_budgets("10,20")
    [10, 20]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"expected --steps as whole numbers of at least 1, such as 10,20,50, got {text!r}")
    return [int(part) for part in dict.fromkeys(parts)]


def main(
    encoder: Annotated[str, typer.Option(help="as for `oodattack attack`")],
    start: Annotated[str, typer.Option(help="x'_out, as for `oodattack attack`")],
    out: Annotated[Path, typer.Option(help="results folder; the same command resumes an interrupted comparison")],
    images: Annotated[
        str | None, typer.Option(help="x_in, as for `oodattack attack` (default: photographs bundled with packages)")
    ] = None,
    norm: Annotated[str, typer.Option(help="l1 | l2 | linf; L-BFGS-B and ART need linf")] = "l2",
    eps: Annotated[str, typer.Option(help="radius of the ball, such as 10 or 16/255")] = "10",
    steps: Annotated[
        str, typer.Option(help="budgets in gradient evaluations, each run separately")
    ] = "10,20,50,100,200",
    limit: Annotated[int, typer.Option(help="number of images to attack, evenly spaced")] = 64,
    batch_size: Annotated[int, typer.Option(help="number of images attacked at once")] = 16,
    seed: Annotated[int, typer.Option(help="random seed for noise and random starts")] = 0,
) -> None:
    """Compare `fast` with the published algorithm, Adam, APGD and, in Linf, L-BFGS-B and ART's feature adversaries."""
    budgets = parse_budgets(steps)
    if images is None:
        images = str(copy_photographs(out / "photographs")[0])
    given = {"encoder": encoder, "images": images, "start": start, "out": out, "norm": norm, "eps": eps, "seed": seed}
    case = load_case(AttackSettings.of({**given, "limit": limit, "batch_size": batch_size}))
    methods = attackers(case)
    missing = {"apgd", *(("lbfgsb", "art") if norm == "linf" else ())} - {method.name for method in methods}
    if missing:
        typer.echo(f"skipped, since their libraries are not installed: {', '.join(sorted(missing))}", err=True)
    compare(case, methods, budgets, out, batch_size=batch_size)
    typer.echo((out / "table.md").read_text())


if __name__ == "__main__":
    start_program(main)
