"""Level 2 of an audit: its stored images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oodattack.auditing.bench import Bench
from oodattack.auditing.kinds import KINDS
from oodattack.auditing.plan import Attack
from oodattack.core.ball import distance
from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.engines import compute_images, exact
from oodattack.pipelines.verify.findings import Findings
from oodattack.pipelines.verify.rescoring import MAPE_SCALE, check_ball, checked_image
from oodattack.settings.ball import NORMS
from oodattack.storage.tables import read_table

Samples = tuple[Tensor, Tensor]
"""x_in and starts, row by row, (N, 3, H, W) uint8."""


def check_samples(name: str, bench: Bench, findings: Findings) -> Samples | None:
    """Compare the stored x_in and starts of a set with its images; returns the stored ones.

    Args:
        name: the set.
        bench: the bench.
        findings: receives what is found.
    """
    file = f"samples/{name}.parquet"
    try:
        rows = read_table(findings.path / file).to_pylist()
    except InputError:
        findings.unchecked.append(f"{file} cannot be read, so the attacks from it were not measured again")
        return None
    images = {"x_in": bench.inputs.targets, "start": bench.inputs.starts[name]}
    found: dict[str, list[Tensor]] = {"x_in": [], "start": []}
    for number, row in enumerate(rows):
        for column, expected in images.items():
            pixels = checked_image(file, number, column, row[column], bench.subject.encoder.input_size, findings)
            if pixels is None or number >= len(expected.names):
                return None  # reported above, or as a wrong number of rows
            findings.equal(file, f"{column}_name", row[f"{column}_name"], expected.names[number], number)
            if not torch.equal(pixels, expected.images[number]):
                findings.differ(file, column, "other pixels", f"those of {expected.names[number]}", number)
            found[column].append(pixels)
    findings.equal(file, "number of rows", len(rows), len(bench.inputs.targets.names))
    findings.checked["PNGs of samples"] += 2 * len(rows)
    return torch.stack(found["x_in"]), torch.stack(found["start"])


def check_attacked(attack: Attack, bench: Bench, samples: Mapping[str, Samples | None], findings: Findings) -> None:
    """Measure the images of an attack again: that they are PNGs of 8 bits in the ball, their distance and MAPE."""
    stored = samples.get(attack.starts)
    if stored is None:
        return
    for path in sorted((findings.path / "attacks" / attack.key).glob("*.parquet")):
        file = path.relative_to(findings.path).as_posix()
        try:
            rows = [row for row in read_table(path).to_pylist() if findings.present(file, row, ("row",))]
        except InputError:
            continue  # reported by level 1
        size = bench.subject.encoder.input_size
        images = [checked_image(file, row["row"], "image", row["image"], size, findings) for row in rows]
        usable = [
            (row, image)
            for row, image in zip(rows, images, strict=True)
            if image is not None and 0 <= row["row"] < len(stored[0])
        ]
        if usable:
            _measure(file, attack, bench, stored, usable, findings)


def _measure(
    file: str,
    attack: Attack,
    bench: Bench,
    stored: Samples,
    rows: list[tuple[dict[str, Any], Tensor]],
    findings: Findings,
) -> None:
    places = [row["row"] for row, _ in rows]
    x_in, start = (dequantize(images[places]) for images in stored)
    x_out = dequantize(torch.stack([image for _, image in rows]))
    distances = distance(x_out, start, NORMS[bench.settings.norm]).tolist()
    for place, (row, _), away in zip(places, rows, distances, strict=True):
        check_ball(file, place, attack.eps, away, findings)
        findings.close(file, "distance", row["distance"], away, place)
    errors = _mape(attack, bench, x_in, x_out).tolist()
    for place, (row, _), error in zip(places, rows, errors, strict=True):
        findings.close(file, "mape", row["mape"], error, place, scale=MAPE_SCALE)
    findings.checked["PNGs re-scored"] += len(rows)


def _mape(attack: Attack, bench: Bench, x_in: Tensor, x_out: Tensor) -> Tensor:
    """MAPE (B,) of what the attack matches; NaN if it lowers a score."""
    f = KINDS[attack.kind].matched(attack.target, bench.subject, bench.detectors)
    if f is None:
        return torch.full((len(x_in),), torch.nan)
    with exact(), torch.no_grad():
        out, inside = (compute_images(f, images.to(bench.subject.device)) for images in (x_out, x_in))
    return mape(out, inside).cpu()
