"""`python -m benchmarks.survive`: do attacked files still pass a detector behind the product's pipeline?

It reads two finished audits with the same images, balls and budget: one of the network alone, one with `--pipeline`.
The PNG files of the first are scored by the detectors of the second, that is, through the true pipeline.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.inputs import machine, start_program
from oodattack.auditing.bench import Bench, open_fitted_bench
from oodattack.auditing.data import in_turn
from oodattack.auditing.measures import Judge
from oodattack.auditing.score import score_images
from oodattack.auditing.store import Audit, open_audit
from oodattack.core.errors import InputError
from oodattack.settings.audit import AuditSettings


def _settings(audit: Audit) -> AuditSettings:
    return AuditSettings.of({**audit.read_results()["settings"], "out": str(audit.path)})


def _keys(audit: Audit, detector: str, starts: str, eps: float) -> list[str]:
    """The latent attacks, and those on the detector itself, from a set of starts within a ball."""
    return [
        key
        for key, attack in audit.read_results()["attacks"].items()
        if (attack["kind"] == "latent" or attack["target"] == detector)
        and attack["starts"] == starts
        and float(attack["eps"]) <= eps
    ]


def _strongest(audit: Audit, detector: str, starts: str, eps: float) -> Tensor:
    """(N,) the lowest score of each image over these attacks."""
    scores = audit.read_scores()
    return torch.stack([scores[detector, key] for key in _keys(audit, detector, starts, eps)]).amin(0)


def _passes(judge: Judge, before: Tensor, after: Tensor) -> str:
    found = judge.measure(after, starts=before).rejected_pass
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f}–{100 * found.high:.0f})"


def table(alone: Audit, behind: Audit, bench: Bench) -> str:
    """A Markdown table: for every detector, set of starts and ball, the shares of rejected starts that pass afterwards.

    Args:
        alone: the audit of the network alone.
        behind: the audit with the pipeline.
        bench: the fitted detectors of the second.
    """
    lines = [
        "| detector | from | eps | rejected: alone, behind | alone, read directly | alone, through the pipeline "
        "| with --pipeline |",
        "|---|---|---|---|---|---|---|",
    ]
    plain, piped = alone.read_scores(), behind.read_scores()
    for name, detector in bench.detectors.items():
        judges = [Judge(scores[name, "in"]) for scores in (plain, piped)]
        for starts in bench.inputs.sets:
            before = [in_turn(scores[name, starts], len(bench.inputs.targets.names)) for scores in (plain, piped)]
            for eps in sorted(bench.settings.eps):
                through = []
                for key in _keys(alone, name, starts, eps):
                    images = alone.read_images(key, bench.inputs.starts[starts].names)
                    scored = score_images({name: detector}, images, 64, bench.subject.device, lambda _step: None)
                    through.append(scored.values[name])
                cells: list[Any] = [
                    *(name, starts, f"{eps:g}"),
                    ", ".join(str(int((b > j.limit).sum())) for b, j in zip(before, judges, strict=True)),
                    _passes(judges[0], before[0], _strongest(alone, name, starts, eps)),
                    _passes(judges[1], before[1], torch.stack(through).amin(0)),
                    _passes(judges[1], before[1], _strongest(behind, name, starts, eps)),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    alone: Annotated[Path, typer.Option(help="directory of an audit without --pipeline")],
    behind: Annotated[Path, typer.Option(help="directory of the same audit with --pipeline")],
) -> None:
    """Print pass rates of the files of both audits."""
    first, second = open_audit(alone), open_audit(behind)
    settings = _settings(second)
    if settings.pipeline is None:
        raise InputError(f"expected an audit with a pipeline in {behind}, got one without; exchange the two")
    bench = open_fitted_bench(settings, second, [row["name"] for row in second.read_results()["detectors"]])
    typer.echo(f"{table(first, second, bench)}\n{machine()}")


if __name__ == "__main__":
    start_program(main)
