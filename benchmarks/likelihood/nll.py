"""`python -m benchmarks.likelihood.nll`: match the likelihood of faces from plain OOD starts (Figs. 12 and 13)."""

from typing import Annotated

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from benchmarks.inputs import machine, start_program
from benchmarks.likelihood.images import Flow, Images, Out, Starts, load_flow, load_images, load_starts
from oodattack.attacks import Ball, Samples, nll
from oodattack.core.pixels import dequantize
from oodattack.images import decode, encode_png
from oodattack.networks import Glow

BATCH = 32
STEPS = 6  # gradient evaluations; with the halvings, at most 20 evaluations
COLUMNS = ("start", "eps", "row", "nll_in", "nll_start", "nll", "evaluations", "l2")
TARGET = 0.001  # bits per dimension


@torch.no_grad()
def score(model: Glow, images: Tensor) -> Tensor:
    """Negative log-likelihoods (N,), in bits per dimension."""
    return torch.cat([model.bits_per_dim(part) for part in torch.split(images, BATCH)])


def match(model: Glow, x_in: Tensor, start: Tensor, target: Tensor, eps: float, steps: int) -> tuple[Tensor, Tensor]:
    """The images that the attack found, decoded from their PNG files, and the evaluations (N,) of each."""
    images, evaluations = [], []
    for rows in torch.split(torch.arange(len(start)), BATCH):
        samples = Samples(x_in[rows], start[rows], rows.tolist())
        found = nll(model, samples, Ball(eps, 2, steps), target[rows])
        images += [dequantize(decode(encode_png(image))) for image in found.images]
        evaluations.append(found.gradient_evaluations + found.forward_evaluations)
    return torch.stack(images), torch.cat(evaluations)


def main(
    model: Flow,
    images: Images,
    out: Out,
    start: Starts = None,
    limit: Annotated[int, typer.Option(help="number of x_in")] = 160,
    eps: Annotated[str, typer.Option(help="radii of the L2 ball, comma-separated")] = "1,5,10",
    steps: Annotated[int, typer.Option(help="gradient evaluations in floating point")] = STEPS,
) -> None:
    """Match the NLL of x_in, and numbers from 5 standard deviations below the mean to 5 above it."""
    out.mkdir(parents=True, exist_ok=True)
    flow = load_flow(model)
    size = flow.input_size[0]
    x_in = load_images(images, size, limit)
    inside = score(flow, load_images(images, size))
    mean, std = float(inside.mean()), float(inside.std())
    target = score(flow, x_in)
    rows, sweep = [], []
    for name, images_0 in load_starts(start or [], size, len(x_in)).items():
        before = score(flow, images_0)
        for radius in map(float, eps.split(",")):
            found, evaluations = match(flow, x_in, images_0, target, radius, steps)
            after = score(flow, found)
            l2 = (found - images_0).flatten(1).norm(dim=1)
            columns = (target, before, after, evaluations, l2)
            rows += [
                dict(zip(COLUMNS, (name, radius, i, *values), strict=True))
                for i, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
            ]
            levels = torch.linspace(-5, 5, 11)
            swept, _ = match(flow, x_in[:11], images_0[:11], mean + std * levels, radius, steps)
            similar = [_similarity(swept[0], image) for image in swept[1:]]
            sweep += [
                {
                    "start": name,
                    "eps": radius,
                    "sd": s,
                    "target": mean + std * s,
                    "nll_start": n,
                    "nll": v,
                    "ssim_to_lowest": q,
                }
                for s, n, v, q in zip(
                    levels.tolist(), before[:11].tolist(), score(flow, swept).tolist(), [1.0, *similar], strict=True
                )
            ]
            print(f"{name} eps {radius:g}: worst {float((after - target).abs().max()):.6f} bits/dim", flush=True)
    table, swept_table = pd.DataFrame(rows), pd.DataFrame(sweep)
    table.to_parquet(out / "nll.parquet")
    swept_table.to_parquet(out / "sweep.parquet")
    (out / "nll.md").write_text(report(table, swept_table, inside, std))
    draw(table, inside).savefig(out / "nll.png", dpi=150)
    print((out / "nll.md").read_text())


def _similarity(first: Tensor, second: Tensor) -> float:
    found = ssim(first[None], second[None], data_range=1.0)
    assert isinstance(found, Tensor)  # noqa: S101 -- without the options that return more
    return float(found)


def report(table: pd.DataFrame, sweep: pd.DataFrame, inside: Tensor, std: float) -> str:
    """The tables in Markdown."""
    lines = [
        f"{machine()}\n\nheld-out NLL {float(inside.mean()):.3f} ± {std:.3f} bits/dim ({len(inside)} images)",
        "",
        f"| start | eps | NLL before | at most {TARGET} bits/dim from that of x_in | worst, bits/dim | worst, standard"
        " deviations | evaluations, most | L2 distance, median | KS before | KS after (p) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, eps), part in table.groupby(["start", "eps"], sort=False):
        difference = (part.nll - part.nll_in).abs()
        before, after = ks_2samp(part.nll_in, part.nll_start), ks_2samp(part.nll_in, part.nll)
        lines.append(
            f"| {name} | {eps:g} | {part.nll_start.mean():.3f} | {(difference <= TARGET).sum()} of {len(part)} |"
            f" {difference.max():.6f} | {difference.max() / std:.5f} | {part.evaluations.max()} |"
            f" {part.l2.median():.2f} | {before.statistic:.2f} | {after.statistic:.3f} ({after.pvalue:.2f}) |"
        )
    lines += [
        "",
        f"| start | eps | targets above the NLL of the start, at most {TARGET} bits/dim away | targets below it |"
        " lowest NLL reached | SSIM of the images with the lowest and the highest NLL |",
        "|---|---|---|---|---|---|",
    ]
    for (name, eps), part in sweep.groupby(["start", "eps"], sort=False):
        reached = (part.nll - part.target).abs() <= TARGET
        above = part.target > part.nll_start
        lines.append(
            f"| {name} | {eps:g} | {reached[above].sum()} of {above.sum()} | {reached[~above].sum()} of"
            f" {(~above).sum()} | {part.nll.min():.3f} | {part.ssim_to_lowest.iloc[-1]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame, inside: Tensor) -> Figure:
    """Histograms of the NLL of held-out images, of the starts, and of the attacked images at the largest radius."""
    starts = list(dict.fromkeys(table.start))
    figure = Figure(figsize=(3.2 * len(starts), 3), layout="constrained")
    eps = table.eps.max()
    for axes, name in zip(figure.subplots(1, len(starts), sharey=True), starts, strict=True):
        part = table[(table.start == name) & (table.eps == eps)]
        low, high = min(inside.min(), part.nll_start.min()), max(inside.max(), part.nll_start.max())
        bins = torch.linspace(float(low), float(high), 60).tolist()
        for values, label in ((part.nll_in, "x_in"), (part.nll_start, "start"), (part.nll, "x_out")):
            axes.hist(values, bins, histtype="step", label=label, density=False)
        axes.set(title=name, xlabel="NLL, bits/dim")
    axes.legend()
    figure.suptitle(f"Before and after the attack, L2 ball of radius {eps:g}")
    return figure


if __name__ == "__main__":
    start_program(main)
