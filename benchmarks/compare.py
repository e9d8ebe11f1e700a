"""`python -m benchmarks.compare`: `fast` against the other methods, side by side.

Every method gets the same images, starts, targets, ball and prepared encoder, and a run of its own for each budget,
since step schedules depend on it. All methods attack one batch before the next batch's turn, so that a machine that
slows down slows them all. Every result is written as it comes; the same command goes on with what is missing.
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
    """Measure what is missing in ``out/results.json``; write ``table.md`` and ``compare.png`` after every budget.

    Args:
        case: what all methods are given.
        methods: who attacks.
        budgets: numbers of steps, each a run of its own.
        out: folder of the results.
        batch_size: images attacked at once.

    Returns:
        One row for each budget and method.

    Raises:
        InputError: if the folder holds another comparison, or one of another machine or version.
    """
    header = {**case.header, "batch_size": batch_size, "machine": machine()}
    results = Results(out / "results.json", header)
    batches = case.batches(batch_size)
    firsts = [rows.start for rows in batches]
    for attacker in methods:  # the first call of all is slow, for imports if nothing else
        measure(case, attacker, batches[0], 1, attacker.step_sizes[0], saved=True)
    rows: list[Row] = []
    budgets = sorted(budgets)
    for number, steps in enumerate(budgets, start=1):
        for batch in batches:
            for attacker in methods:
                for step_size in attacker.step_sizes:
                    _fill(results, case, attacker, batch, steps, step_size, saved=False)
        for batch in batches:
            for attacker in methods:
                best = best_step(results, attacker, steps, firsts)
                _fill(results, case, attacker, batch, steps, best, saved=True)
        rows = rows_of(results, methods, budgets[:number], firsts)
        write_text(out / "table.md", page(rows, header))
        save(draw(rows, header), out / "compare.png")
    return rows


def _fill(
    results: Results, case: Case, attacker: Attacker, rows: slice, steps: int, step_size: float | None, *, saved: bool
) -> None:
    """Measure what has not been measured yet, by an earlier start or under another label."""
    if (attacker.name, step_size, steps, saved, rows.start) not in results.measured:
        results.add(measure(case, attacker, rows, steps, step_size, saved=saved))


def parse_budgets(text: str) -> list[int]:
    """Numbers of steps.

    Raises:
        InputError: if one is not a whole number of at least 1.

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
    out: Annotated[Path, typer.Option(help="folder of the results; the same command goes on with it")],
    images: Annotated[
        str | None, typer.Option(help="x_in, as for `oodattack attack`; by default photographs that packages ship")
    ] = None,
    norm: Annotated[str, typer.Option(help="l1 | l2 | linf; ART's attack needs linf")] = "l2",
    eps: Annotated[str, typer.Option(help="radius of the ball: 10, 16/255")] = "10",
    steps: Annotated[str, typer.Option(help="budgets, each a run of its own")] = "10,20,50,100,200",
    limit: Annotated[int, typer.Option(help="so many images, evenly spaced over all")] = 64,
    batch_size: Annotated[int, typer.Option(help="images attacked at once")] = 16,
    seed: Annotated[int, typer.Option(help="of noise and random starts")] = 0,
) -> None:
    """Compare `fast` with the published algorithm, plain PGD and, in Linf, ART's feature adversaries."""
    budgets = parse_budgets(steps)
    if images is None:
        images = str(copy_photographs(out / "photographs")[0])
    given = {"encoder": encoder, "images": images, "start": start, "out": out, "norm": norm, "eps": eps, "seed": seed}
    case = load_case(AttackSettings.of({**given, "limit": limit, "batch_size": batch_size}))
    methods = attackers(case)
    if norm == "linf" and methods[-1].name != "art":
        typer.echo("ART is left out: pip install 'oodattack[benchmark]'", err=True)
    compare(case, methods, budgets, out, batch_size=batch_size)
    typer.echo((out / "table.md").read_text())


if __name__ == "__main__":
    start_program(main)
