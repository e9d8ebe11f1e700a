"""A run on the terminal: the announcement, the progress bar and the final table."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from oodattack.api.progress import bars
from oodattack.cli.terminal import (
    error_console,
    json_number,
    output_console,
    percent,
    plain_warnings,
    print_json,
    printable,
    resumable,
    shell_command,
)
from oodattack.settings.attack import AttackSettings
from oodattack.settings.ball import NORM_NAMES

if TYPE_CHECKING:
    from oodattack.encoders import Encoder
    from oodattack.pipelines.attack import Progress as RunProgress
    from oodattack.runs import Group, Run

LEGEND = """\
n: number of samples; before, float, 8-bit: median MAPE in percent before the
attack, after it in floating point, and of the decoded 8-bit PNG, the figure
that counts; <0.1 %: percentage of PNGs below 0.1 %; distance: median distance
from the start; evals: mean number of gradient evaluations per sample; worst
layer: median of the largest MAPE among the layers; class: percentage of x_out
whose top-1 class is that of x_in.
"""


def run_and_report(settings: AttackSettings, *, as_json: bool, quiet: bool) -> None:
    """Run an attack, draw its figures, write its page and print a summary.

    Progress and messages go to standard error, the table or JSON to standard output.
    """
    console = error_console(quiet=quiet)
    with plain_warnings(console):
        console.print("loading torch and the encoder …", style="dim")
        from oodattack.pipelines.attack import run_attack
        from oodattack.report import draw_run
        from oodattack.report.page import write_page

        with resumable(settings.out), _progress(console) as bar:
            run = run_attack(settings, on_progress=bar, on_ready=partial(_announce, console, settings))
        figures = draw_run(run, settings.out / "figures")
        page = write_page(settings.out)
    print_summary(run, figures, page, as_json=as_json, quiet=quiet)


def print_summary(run: "Run", figures: list[Path], page: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Print the summary of a run as a table or as JSON, and where its figures and its page, if any, are."""
    from oodattack.runs import summarize

    groups, skipped = summarize(run), run.skipped()
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "pipeline": run.header["inputs"].get("pipeline"),
                "groups": [{k: json_number(v) for k, v in dataclasses.asdict(group).items()} for group in groups],
                "skipped": skipped,
                "pictures": [str(figure) for figure in figures],
                "page": page and str(page),
            }
        )
        return
    if quiet:
        return
    console = output_console()
    console.print(_table(run, groups), LEGEND, soft_wrap=False)
    undefined = sum(group.undefined for group in groups)
    if undefined:
        console.print(f"{undefined} samples have no MAPE (z_in is all zeros) and are not counted above.")
    if skipped:
        console.print(f"{len(skipped)} images could not be decoded and were skipped:")
        for reason in list(skipped.values())[:10]:
            console.print(f"  {printable(reason)}")
        if len(skipped) > 10:
            console.print(f"  … and {len(skipped) - 10} more")
    console.print(f"run       {run.path}/run.json, {run.path}/shards/*.parquet (pandas, datasets, DuckDB read them)")
    for figure in figures:
        console.print(f"figure    {figure}")
    if page is not None:
        console.print(f"page      {page} ({shell_command('open', run.path)})")


def _table(run: "Run", groups: "list[Group]") -> Table:
    """A table that fits into 80 columns."""
    settings = run.header["settings"]
    title = (
        f"MAPE of z_out against z_in, in percent: {settings['method']}, {settings['steps']} steps,"
        f" {NORM_NAMES[settings['norm']]} ball"
    )
    pipeline = run.header["inputs"].get("pipeline")
    if pipeline is not None:
        title += f", PNGs through {pipeline}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    with_classes = any(group.class_taken is not None for group in groups)
    with_layers = len(run.header["inputs"].get("parts", [])) > 1
    headings = ["start", "eps", "n", "before", "float", "8-bit", "<0.1 %", "distance", "evals"]
    for heading in headings + ["worst layer"] * with_layers + ["class"] * with_classes:
        if heading == "start":
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for group in groups:
        cells = [
            *(printable(group.start), f"{group.eps:.4g}", str(group.count)),
            *(
                _percentage(group.before),
                _percentage(group.float_median),
                _percentage(group.median),
                _percentage(group.below),
            ),
            *(f"{group.distance:.4g}", f"{group.gradient_evaluations:.4g}"),
        ]
        if with_layers:
            cells.append(_percentage(group.worst_part))
        if with_classes:
            cells.append("–" if group.class_taken is None else _percentage(group.class_taken))
        table.add_row(*cells)
    return table


def _percentage(fraction: float) -> str:
    return percent(fraction).removesuffix(" %")


def _announce(console: Console, settings: AttackSettings, encoder: "Encoder", run: "Run") -> None:
    height, width = encoder.input_size
    console.print(
        f"encoder   {encoder.name}: z = {encoder.layer}, {encoder.latent_dim} numbers from"
        f" {height}x{width}x3 = {height * width * 3} pixels",
        markup=False,
    )
    if encoder.pipeline is not None:
        estimated = "" if encoder.has_gradient else " (without a gradient: SPSA)"
        console.print(f"pipeline  {encoder.pipeline.name}{estimated}", markup=False)
    radii = ", ".join("inf" if math.isinf(eps) else f"{eps:.4g} ({255 * eps:.4g} in 0–255)" for eps in settings.eps)
    console.print(f"ball      {NORM_NAMES[settings.norm]}, eps {radii}, pixels in [0, 1]")
    console.print(
        f"samples   {run.header['rows']}, {run.header['batch_size']} at once, on {run.header['environment']['device']}"
    )
    done = len(run.done())
    if done:
        console.print(f"resuming  {done} of {run.shard_count} shards already exist in {run.path}")


@contextmanager
def _progress(console: Console) -> "Iterator[Callable[[RunProgress], None]]":
    """Show a progress bar on standard error, if that is a terminal; yields the function to update it."""
    with bars(console, "samples") as progress:
        task = progress.add_task("attacking", total=None)

        def update(now: "RunProgress") -> None:
            done = now.rows_done + min(now.share, 1) * now.running
            task_name = "finishing this batch (Ctrl-C again stops immediately)" if now.stopping else "attacking"
            progress.update(task, total=now.rows, completed=int(done), description=task_name)

        yield update
