"""`python -m benchmarks.pipeline`: what is left of an attack once the file has gone through the product's pipeline.

The encoder is attacked twice with the same images, starts, balls and budget: alone, and behind the pipeline. The PNG
files of both runs are then read by the encoder behind the true pipeline. Both runs are stored; the same command resumes
an interrupted one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.inputs import machine, start_program
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.images import decode
from oodattack.pipelines.attack import run_attack
from oodattack.runs import Run
from oodattack.settings.attack import AttackSettings
from oodattack.settings.ball import NORM_NAMES
from oodattack.storage.files import write_text


def through(encoder: Encoder, run: Run) -> list[float]:
    """MAPE of a run's files, in per cent, when the encoder reads x_out and x_in.

    Args:
        encoder: behind the pipeline.
        run: a finished run on images of the encoder's input size.
    """
    found: list[float] = []
    for row in run.read(["image", "x_in"]).to_pylist():
        images = torch.stack([decode(row[name]["bytes"]) for name in ("image", "x_in")])
        with torch.no_grad():
            z_out, z_in = encoder(dequantize(images).to(encoder.mean.device))
        found.append(100 * float(mape(z_out[None], z_in[None])))
    return found


def table(behind: Run, alone: Run, survived: Sequence[float], title: str) -> str:
    """A Markdown table of medians and quartiles, one row for each start and ball.

    Args:
        behind: the run that attacked the encoder behind the pipeline.
        alone: the run that attacked the encoder alone.
        survived: MAPE in per cent of the files of `alone` through the pipeline, one for each of its rows.
        title: what was attacked.
    """
    columns = ["start_source", "eps", "mape", "mape_before"]
    ours, theirs = (run.read(columns).to_pylist() for run in (behind, alone))
    lines = [
        f"{title}\n",
        "| start | eps | files | before | alone: read directly | alone: through the pipeline | with --pipeline |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys(map(_group, ours)):
        places = [i for i, row in enumerate(ours) if _group(row) == key]
        values = (
            [100 * ours[i]["mape_before"] for i in places],
            [100 * theirs[i]["mape"] for i in places],
            [survived[i] for i in places],
            [100 * ours[i]["mape"] for i in places],
        )
        cells = [f"{np.median(v):.3g} ({np.quantile(v, 0.25):.3g} – {np.quantile(v, 0.75):.3g})" for v in values]
        lines.append(f"| {key[0]} | {key[1]:g} | {len(places)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _group(row: Mapping[str, Any]) -> tuple[str, float]:
    return row["start_source"], row["eps"]


def main(
    encoder: Annotated[str, typer.Option(help="as for `oodattack attack`")],
    pipeline: Annotated[str, typer.Option(help="as for `oodattack attack`")],
    images: Annotated[str, typer.Option(help="x_in, as for `oodattack attack`")],
    start: Annotated[list[str], typer.Option(help="x'_out, as for `oodattack attack`; may be repeated")],
    out: Annotated[Path, typer.Option(help="results folder; the same command resumes an interrupted benchmark")],
    norm: Annotated[str, typer.Option(help="l1 | l2 | linf")] = "l2",
    eps: Annotated[str, typer.Option(help="radii of the ball, separated by commas")] = "10",
    steps: Annotated[int, typer.Option(help="gradient evaluations")] = 100,
    limit: Annotated[int, typer.Option(help="number of x_in, evenly spaced; each is attacked from each start")] = 16,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu | cuda | mps")] = None,
) -> None:
    """Compare attacks with and without `--pipeline` by what the product makes of the saved files."""
    given: dict[str, Any] = {"encoder": encoder, "images": images, "start": start, "norm": norm, "eps": eps}
    given |= {"steps": steps, "limit": limit, "seed": seed, "device": device}
    behind = run_attack(AttackSettings.of({**given, "pipeline": pipeline, "out": out / "behind"}))
    alone = run_attack(AttackSettings.of({**given, "out": out / "alone"}))
    survived = through(load_encoder(encoder, pipeline=pipeline, device=device), alone)
    found = machine()
    title = (
        f"MAPE in per cent, median (quartiles), {NORM_NAMES[norm]} ball, {steps} steps, seed {seed},"
        f" pipeline {behind.header['inputs']['pipeline']}; {found['cpu']}, {found['threads']} threads,"
        f" torch {found['torch']}"
    )
    text = table(behind, alone, survived, title)
    write_text(out / "table.md", text)
    typer.echo(text)


if __name__ == "__main__":
    start_program(main)
