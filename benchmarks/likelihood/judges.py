"""`python -m benchmarks.likelihood.judges`: one PNG, ten judges.

An image is accepted if every score lies in the central 90 % of its values on held-out images: all ten detectors at
once, and in both tails. The attack lowers the largest of the ten two-sided ranks, from the image that the attack on the
likelihood found.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
import typer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.inputs import machine, start_program
from benchmarks.likelihood.images import Images, Starts, load_images, load_starts
from oodattack.attacks import Ball, Samples, direct, follow, nll
from oodattack.auditing.models import open_models
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector, Ensemble, Subject, make_detectors, make_subject
from oodattack.encoders import load_encoder

JUDGES = (
    "NLL",
    "LikelihoodRatio",
    "WAIC",
    "InputComplexity",
    "Typicality",
    "DoSE",
    "LastScale",
    "MSMA",
    "OneStep",
    "FeatureFlow",
)
CENTRAL = 0.9
BATCH = 16


def fitted(subject: Subject, specs: list[str], train: Tensor, held_out: Tensor) -> tuple[Ensemble, dict[str, Tensor]]:
    """The judges on some models as one two-sided detector, and the scores of held-out images."""
    models, _ = open_models(specs, subject.encoder)
    judges, absent = make_detectors(subject, JUDGES, models)
    for missing in absent:
        print(f"without {missing.name}: {missing.reason}")
    loader = [(part, torch.zeros(len(part))) for part in torch.split(train, 64)]
    for judge in judges.values():
        judge.fit(loader)
    scores = {name: score(judge, held_out) for name, judge in judges.items()}
    return Ensemble(judges, scores, two_sided=True), scores


def score(detector: Detector, images: Tensor) -> Tensor:
    """Scores (N,) of images (N, 3, H, W)."""
    return torch.cat([detector.score(part) for part in torch.split(images, BATCH)])


def verdict(name: str, ensemble: Ensemble, images: Tensor, inside: Tensor) -> str:
    """A row of the table: how many images all judges accept, and each judge's own share."""
    with torch.no_grad():
        extremes = torch.cat([ensemble.reads(part) for part in torch.split(images, BATCH)])
    joint = score(ensemble, images)
    labels = torch.cat([torch.zeros(len(inside)), torch.ones(len(joint))]).int()
    auroc = float(binary_auroc(torch.cat([inside, joint]).float(), labels))
    shares = (extremes <= CENTRAL).double().mean(0).tolist()
    each = ", ".join(f"{judge} {share:.0%}" for judge, share in zip(ensemble.members, shares, strict=True))
    return f"| {name} | {float((joint <= CENTRAL).double().mean()):.0%} | {auroc:.3f} | {each} |"


def main(
    encoder: Annotated[str, typer.Option(help="the encoder whose features FeatureFlow reads")],
    model: Annotated[list[str], typer.Option(help="a model that the attack knows: trained:DIR")],
    train: Annotated[str, typer.Option(help="images to fit the judges on")],
    images: Images,
    pipeline: Annotated[str | None, typer.Option(help="the encoder's pipeline, such as resize=32")] = None,
    size: Annotated[int, typer.Option(help="side of the images")] = 64,
    unseen: Annotated[list[str] | None, typer.Option(help="a model that the attack does not know")] = None,
    start: Starts = None,
    limit: Annotated[int, typer.Option(help="number of x_in")] = 16,
    eps: Annotated[float, typer.Option(help="radius of the L2 ball")] = 5.0,
    steps: Annotated[int, typer.Option(help="gradient evaluations of each try")] = 30,
) -> None:
    """Find images that ten detectors accept at once, and show them to detectors on unseen models."""
    loaded = load_encoder(encoder, device="cpu", pipeline=pipeline, native_size=str(size) if pipeline else None)
    subject = make_subject(loaded)
    faces = load_images(images, size)
    x_in, held_out = faces[:limit], faces[limit:]
    fit_on = load_images(train, size, 500)
    known, scores = fitted(subject, model, fit_on, held_out)
    others = fitted(subject, unseen, fit_on, held_out) if unseen else None
    tables: Mapping[str, tuple[Ensemble, Tensor]] = {
        "known models": (known, known.combine(scores)),
        **({"unseen models": (others[0], others[0].combine(others[1]))} if others else {}),
    }
    flow = open_models(model, loaded)[0].flow
    followed = follow(known, x_in[:8], known.combine(scores))
    print(machine())
    print("\n| images | accepted by all | joint AUROC | each |\n|---|---|---|---|")
    for name, (ensemble, inside) in tables.items():
        print(verdict(f"x_in, {name}", ensemble, x_in, inside), flush=True)
    for name, images_0 in load_starts(start or [], size, limit).items():
        found = []
        for rows in torch.split(torch.arange(limit), BATCH):
            samples, ball = Samples(x_in[rows], images_0[rows], rows.tolist()), Ball(eps, 2, steps)
            initial = dequantize(nll(flow, samples, ball).images)
            found.append(dequantize(direct(followed, known, samples, ball, initial).images))
        for table, (ensemble, inside) in tables.items():
            print(verdict(f"{name}, start, {table}", ensemble, images_0, inside), flush=True)
            print(verdict(f"{name}, x_out, {table}", ensemble, torch.cat(found), inside), flush=True)


if __name__ == "__main__":
    start_program(main)
