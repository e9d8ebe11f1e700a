"""`python -m benchmarks.sanity`: signs of attacks that are weaker than they look (Athalye et al. 2018).

The direct attack on each detector must get stronger with eps and with the number of steps, reach an AUROC of 0 without
a bound, gain little from restarts, be stronger than a black-box attack, and transfer worse to another network than it
works on its own. Here each attack stands alone: neither the start nor attacks in smaller balls or with fewer steps
count, as they do in an audit. Each figure is stored as soon as it is measured; the same command resumes.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.inputs import machine, start_program
from oodattack.attacks import Ball, Followed, Found, Samples, direct, follow, latent
from oodattack.attacks.batch import run
from oodattack.attacks.direct import GRID_SHARE
from oodattack.auditing.bench import Bench, fit_detector, open_bench
from oodattack.auditing.measures import Judge
from oodattack.core.gradient import Gradient, Spsa
from oodattack.core.pixels import dequantize
from oodattack.detectors import Detector
from oodattack.engines import exact
from oodattack.settings.audit import AuditSettings
from oodattack.settings.ball import NORMS
from oodattack.storage.files import write_text

BUDGETS = (5, 10, 20, 40, 80)


@dataclass(frozen=True)
class Result:
    """What an attack found.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        evaluations: gradient evaluations per image, those of the attacks that it builds on included.
    """

    images: Tensor
    evaluations: float


@dataclass(frozen=True)
class Case:
    """One detector and the images of the attacks on it.

    Attributes:
        bench: the subject and its images.
        detector: the fitted detector.
        followed: its score in the form that attacks descend.
        samples: starts of all sets in turn, and x_in.
        inside: scores of the held-out images.
    """

    bench: Bench
    detector: Detector
    followed: Followed
    samples: Samples
    inside: Tensor

    def auroc(self, images: Tensor) -> float:
        """AUROC of images (B, 3, H, W) in [0, 1] against the held-out images."""
        return Judge(self.inside).measure(self.detector.score(images)).auroc.value

    def lowest(self, ball: Ball, initial: Result | None = None, source: Gradient | None = None) -> Result:
        """One try of the direct attack, with the work of what it starts from."""
        found = run(
            self.followed.f,
            self.samples,
            None,
            ball,
            gradient=source or self.followed.gradient,
            grid_steps=None if source else ball.steps // GRID_SHARE,
            initial=initial and initial.images,
        )
        return _result(found, initial)

    def from_latent(self, ball: Ball) -> Result:
        """What the latent attack found."""
        return _result(latent(self.bench.subject.features, self.samples, ball), None)

    def direct(self, ball: Ball, restarts: int = 1) -> Result:
        """The direct attack of an audit, with its two tries, and the work of the latent attack."""
        initial = self.from_latent(ball)
        found = direct(self.followed, self.detector, self.samples, ball, initial.images, restarts=restarts)
        return _result(found, initial)


def _result(found: Found, initial: Result | None) -> Result:
    work = float(found.gradient_evaluations.double().mean()) + (initial.evaluations if initial else 0.0)
    return Result(dequantize(found.images), work)


def open_case(bench: Bench, name: str) -> Case:
    """Fit a detector of a bench, and read the images."""
    fit_detector(bench, name)
    detector, inputs = bench.detectors[name], bench.inputs
    count = len(inputs.targets.names)
    sets = [inputs.starts[starts] for starts in inputs.sets]
    start = dequantize(torch.stack([sets[i % len(sets)].images[i // len(sets)] for i in range(count)]))
    samples = Samples(dequantize(inputs.targets.images), start, list(range(count)))
    tried = torch.cat([samples.x_in[:4], samples.start[:12]])
    scores = [detector.score(images) for images in inputs.inside.batches(64, torch.device("cpu"))]
    followed = follow(detector, tried, detector.score(samples.x_in))
    return Case(bench, detector, followed, samples, torch.cat(scores))


def figures(case: Case, norm: float, radii: list[float], steps: int) -> dict[str, Callable[[], Result]]:
    """The attacks of a detector's row, by section and column."""
    middle = radii[len(radii) // 2]

    def ball(eps: float, count: int = steps) -> Ball:
        return Ball(eps, norm, count)

    def one_try(eps: float, count: int) -> Callable[[], Result]:
        return lambda: case.lowest(ball(eps, count))

    return {
        "eps/0": lambda: Result(case.samples.start, 0.0),
        **{f"eps/{eps:.3g}": one_try(eps, steps) for eps in (*radii, math.inf)},
        **{f"steps/{count}": one_try(middle, count) for count in BUDGETS},
        "tries/the audit": lambda: case.direct(ball(middle)),
        "tries/from the start": one_try(middle, 3 * steps),
        "tries/from the latent attack": lambda: case.lowest(ball(middle, 2 * steps), case.from_latent(ball(middle))),
        "tries/through a ball a quarter as large": lambda: case.lowest(
            ball(middle, 2 * steps), case.lowest(ball(middle / 4))
        ),
        "restarts/1": lambda: case.direct(ball(middle)),
        "restarts/3": lambda: case.direct(ball(middle), restarts=3),
        "black box/white box": one_try(middle, steps),
        "black box/SPSA": lambda: case.lowest(ball(middle), source=Spsa(directions=8)),
    }


def table(results: Mapping[str, list[float]], section: str, title: str) -> str:
    """One section as a Markdown table: a row per detector; in brackets the gradient evaluations per image."""
    rows: dict[str, dict[str, list[float]]] = {}
    for key, value in results.items():
        name, part, column = key.split("/", 2)
        if part == section:
            rows.setdefault(name, {})[column] = value
    columns = list(next(iter(rows.values())))
    lines = [f"**{title}**\n", "| detector | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, row in rows.items():
        cells = [f"{row[column][0]:.3f} ({row[column][1]:.0f})" if column in row else "–" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    encoder: Annotated[str, typer.Option(help="as for `oodattack audit`")],
    witness: Annotated[str, typer.Option(help="another encoder, to which attacks transfer or not")],
    train: Annotated[str, typer.Option(help="as for `oodattack audit`")],
    test: Annotated[str, typer.Option(help="as for `oodattack audit`")],
    ood: Annotated[list[str], typer.Option(help="as for `oodattack audit`; starts of all sets take turns")],
    out: Annotated[Path, typer.Option(help="results folder; the same command resumes an interrupted benchmark")],
    detectors: Annotated[
        str, typer.Option(help="names, joined by commas")
    ] = "MaxSoftmax,EnergyBased,KLMatching,KNN,ViM,MultiMahalanobis",
    norm: Annotated[str, typer.Option(help="l1 | l2 | linf")] = "l2",
    eps: Annotated[
        str, typer.Option(help="radii, in ascending order; the middle one is used for the other tables")
    ] = "0.1,0.3,1,5",
    steps: Annotated[int, typer.Option(help="gradient evaluations of a try")] = 30,
    limit: Annotated[int, typer.Option(help="number of attacked images")] = 40,
    fit_limit: Annotated[int, typer.Option(help="number of images to fit on")] = 5000,
) -> None:
    """Attack each detector in many ways, and print AUROCs."""
    file = out / "results.json"
    results: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
    given = {"train": train, "test": test, "ood": tuple(ood), "out": out, "detectors": detectors, "norm": norm}
    settings = AuditSettings.of({**given, "encoder": encoder, "eps": eps, "limit": limit, "fit_limit": fit_limit})
    radii, names = list(settings.eps), list(settings.detectors)
    bench = open_bench(settings)
    other = open_bench(AuditSettings.of({**given, "encoder": witness, "limit": limit, "fit_limit": fit_limit}))

    def keep(key: str, value: float, work: float) -> None:
        results[key] = [value, work]
        write_text(file, json.dumps(results, indent=1))
        typer.echo(f"{key}: {value:.3f} ({work:.0f})", err=True)

    with exact():
        for name in names:
            case, elsewhere = open_case(bench, name), open_case(other, name)
            for key, attack in figures(case, NORMS[settings.norm], radii, steps).items():
                if f"{name}/{key}" not in results:
                    found = attack()
                    keep(f"{name}/{key}", case.auroc(found.images), found.evaluations)
            ball = Ball(radii[len(radii) // 2], NORMS[settings.norm], steps)
            if f"{name}/transfer/other: direct on the first" not in results:
                images, matched, itself = case.direct(ball), case.from_latent(ball), elsewhere.direct(ball)
                keep(f"{name}/transfer/first: before", case.auroc(case.samples.start), 0)
                keep(f"{name}/transfer/first: direct", case.auroc(images.images), images.evaluations)
                keep(f"{name}/transfer/other: before", elsewhere.auroc(case.samples.start), 0)
                keep(f"{name}/transfer/other: direct on itself", elsewhere.auroc(itself.images), itself.evaluations)
                keep(
                    f"{name}/transfer/other: latent on the first", elsewhere.auroc(matched.images), matched.evaluations
                )
                keep(f"{name}/transfer/other: direct on the first", elsewhere.auroc(images.images), images.evaluations)
    middle = f"eps {radii[len(radii) // 2]:g}"
    titles = {
        "eps": f"AUROC of one try of {steps} steps, against eps",
        "steps": f"AUROC of one try at {middle}, against the number of steps",
        "tries": f"AUROC at {middle}, with about the same work spent in several ways",
        "restarts": f"AUROC of the direct attack at {middle}, {steps} steps, against the number of restarts",
        "black box": f"AUROC at {middle} with {steps} steps: by the gradient, and by SPSA (16 evaluations per step)",
        "transfer": f"AUROC at {middle}: attacked on the first network, scored by the other",
    }
    parts = [table(results, section, title) for section, title in titles.items()]
    write_text(out / "sanity.md", "\n".join([*parts, f"{limit} images; {machine()}"]) + "\n")
    typer.echo((out / "sanity.md").read_text())


if __name__ == "__main__":
    start_program(main)
