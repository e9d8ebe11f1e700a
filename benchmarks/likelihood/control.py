"""`python -m benchmarks.likelihood.control`: the whole z of a bijection cannot be matched (Section IV of the paper).

The negative control of the other attacks: f is the whole z of the flow, which determines the image, so the least
distance between z_out and z_in vanishes only where the ball reaches x_in.
"""

from typing import Annotated

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.inputs import machine, start_program
from benchmarks.likelihood.holes import latents
from benchmarks.likelihood.images import Flow, Images, Out, Starts, load_flow, load_images, load_starts
from oodattack.attacks import Ball, Samples, latent
from oodattack.core.pixels import dequantize


def main(
    model: Flow,
    images: Images,
    out: Out,
    start: Starts = None,
    limit: Annotated[int, typer.Option(help="number of x_in for each start")] = 8,
    shares: Annotated[str, typer.Option(help="radii, as shares of the distance from the start to x_in")] = (
        "0.05,0.1,0.2,0.4,0.6,0.8,0.9,1"
    ),
    steps: Annotated[int, typer.Option(help="gradient evaluations")] = 200,
) -> None:
    """Find the least distance between z_out and z_in over radii up to the distance between start and x_in."""
    out.mkdir(parents=True, exist_ok=True)
    flow = load_flow(model)
    size = flow.input_size[0]
    x_in = load_images(images, size, limit)
    z_in = latents(flow, x_in)

    def whole(x: Tensor) -> Tensor:
        return torch.cat([z.flatten(1) for z in flow.encode(x).z], dim=1)

    rows = []
    for name, images_0 in load_starts(start or [], size, limit).items():
        apart = (images_0 - x_in).flatten(1).norm(dim=1)
        initial = (latents(flow, images_0) - z_in).norm(dim=1)
        rows += [
            {"start": name, "share": 0.0, "eps": 0.0, "row": i, "z": z, "z_start": z, "straight": z}
            for i, z in enumerate(initial.tolist())
        ]
        for share in map(float, shares.split(",")):
            for i in range(limit):
                one = slice(i, i + 1)
                eps = share * float(apart[i]) * (1 + 1e-6)
                found = latent(whole, Samples(x_in[one], images_0[one], [i]), Ball(eps, 2, steps))
                least = (latents(flow, dequantize(found.images)) - z_in[one]).norm()
                # the point of the ball that is nearest to x_in
                line = images_0[one] + min(share, 1.0) * (x_in[one] - images_0[one])
                straight = (latents(flow, line) - z_in[one]).norm()
                rows.append(
                    {
                        "start": name,
                        "share": share,
                        "eps": eps,
                        "row": i,
                        "z": float(least),
                        "z_start": float(initial[i]),
                        "straight": float(straight),
                    }
                )
            part = pd.DataFrame([row for row in rows if row["start"] == name and row["share"] == share])
            print(f"{name} {share:g}: {part.z.median():.2f} of {part.z_start.median():.2f}", flush=True)
    table = pd.DataFrame(rows)
    table.to_parquet(out / "control.parquet")
    (out / "control.md").write_text(f"{machine()}\n\n{report(table)}")
    draw(table).savefig(out / "control.png", dpi=150)
    print((out / "control.md").read_text())


def report(table: pd.DataFrame) -> str:
    """Medians of the least distance, as shares of the distance before the attack."""
    table = table.assign(relative=table[["z", "straight"]].min(axis=1) / table.z_start)
    medians = table.pivot_table("relative", "start", "share", aggfunc="median", sort=False)
    radii = table.pivot_table("eps", "start", "share", aggfunc="median", sort=False)
    header = "| start | " + " | ".join(f"{share:g}" for share in medians) + " |"
    lines = [header, "|---" * (len(medians.columns) + 1) + "|"]
    for name, row in medians.iterrows():
        cells = (f"{value:.3f} (L2 {radii.loc[name, share]:.1f})" for share, value in row.items())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame) -> Figure:
    """The least distance against the radius, both relative to their values without an attack."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    table = table.assign(relative=table[["z", "straight"]].min(axis=1) / table.z_start)
    for name, part in table.groupby("start", sort=False):
        grouped = part.groupby("share").relative
        axes.plot(grouped.median().index, grouped.median(), marker="o", label=name)
        axes.fill_between(grouped.median().index, grouped.quantile(0.1), grouped.quantile(0.9), alpha=0.15)
    axes.set(
        xlabel="radius of the L2 ball / distance from the start to x_in",
        ylabel="least ‖z_out - z_in‖ / that of the start",
        ylim=(0, None),
        title="The whole z of a bijection is matched only at x_in",
    )
    axes.legend()
    return figure


if __name__ == "__main__":
    start_program(main)
