"""`python -m benchmarks.likelihood.holes`: the two reasons that Section II-C gives for the weakness of the likelihood.

1. The latent space is sparse: once the likelihood is matched, z_out lies in a "hole", far from every z_in.
2. The density itself is wrong: images that are no faces, samples of the flow among them, are as likely as faces.
"""

from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.inputs import machine, start_program
from benchmarks.likelihood.images import Flow, Images, Starts, load_flow, load_images, load_starts
from benchmarks.likelihood.nll import BATCH, STEPS, match, score
from oodattack.encoders import Encoder, load_encoder
from oodattack.networks import Glow

FACE = "face"  # the witness's class of in-distribution images


@torch.no_grad()
def latents(model: Glow, images: Tensor) -> Tensor:
    """Z of all levels, (N, D)."""
    parts = [model.encode(part).z for part in torch.split(images, BATCH)]
    return torch.cat([torch.cat([z.flatten(1) for z in part], dim=1) for part in parts])


@torch.no_grad()
def not_faces(witness: Encoder, images: Tensor) -> float:
    """The share of images (N, 3, H, W) that the witness does not call a face; it resizes them to its own size."""
    assert witness.classes is not None  # noqa: S101 -- checked on loading
    sized = torch.nn.functional.interpolate(images, witness.input_size, mode="bicubic", antialias=True).clamp(0, 1)
    predicted = torch.cat([witness.classify(part).argmax(1) for part in torch.split(sized, BATCH)])  # type: ignore[union-attr]
    return float((predicted != witness.classes.index(FACE)).double().mean())


def main(
    model: Flow,
    train: Annotated[str, typer.Option(help="the images that the flow was trained on")],
    images: Images,
    witness: Annotated[str, typer.Option(help=f"a classifier of which one class is named {FACE!r}")],
    start: Starts = None,
    limit: Annotated[int, typer.Option(help="number of x_in")] = 160,
    eps: Annotated[float, typer.Option(help="radius of the L2 ball")] = 5.0,
) -> None:
    """Measure how far z_out is from the nearest z_in, and what share of likely images a witness calls no face."""
    flow, judge = load_flow(model), load_encoder(witness, device="cpu")
    size = flow.input_size[0]
    x_in = load_images(images, size, limit)
    known = latents(flow, load_images(train, size))
    target, of_in = score(flow, x_in), latents(flow, x_in)

    def nearest(z: Tensor) -> Tensor:
        return torch.cdist(z, known).amin(1)

    usual = nearest(of_in)
    samples = flow.sample(limit, torch.Generator().manual_seed(0))
    samples = (255 * samples).round() / 255
    print(machine())
    print(f"\nz has {known.shape[1]} numbers; ‖z‖ of x_in: median {float(of_in.norm(dim=1).median()):.1f}\n")
    print(
        "| images | NLL, bits/dim, median | ‖z‖, median | distance of z to the nearest z of a training image, median"
        " (5 % to 95 %) | share farther than 95 % of x_in | the witness calls no face |"
    )
    print("|---|---|---|---|---|---|")
    sets = {"x_in": x_in, "samples of the flow": samples}
    for name, images_0 in load_starts(start or [], size, len(x_in)).items():
        sets[f"{name}, start"] = images_0
        sets[f"{name}, x_out"] = match(flow, x_in, images_0, target, eps, STEPS)[0]
    limit_95 = usual.quantile(0.95)
    for name, found in sets.items():
        z = latents(flow, found)
        far = nearest(z)
        low, high = far.quantile(torch.tensor([0.05, 0.95])).tolist()
        print(
            f"| {name} | {float(score(flow, found).median()):.3f} | {float(z.norm(dim=1).median()):.1f} |"
            f" {float(far.median()):.1f} ({low:.1f} to {high:.1f}) | {float((far > limit_95).double().mean()):.0%} |"
            f" {not_faces(judge, found):.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    start_program(main)
