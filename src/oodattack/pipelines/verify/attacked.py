"""Level 2 of an audit: its stored images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oodattack.auditing.bench import Bench
from oodattack.auditing.kinds import KINDS
from oodattack.auditing.plan import Attack
from oodattack.core.ball import distance
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize
from oodattack.engines import compute_images, exact
from oodattack.pipelines.verify.findings import EXPECTED, Findings
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
    if not (findings.path / file).is_file():
        findings.differ(file, "file", "none", "x_in and starts of the attacks", words=EXPECTED)
        return None
    rows, count = read_table(findings.path / file).to_pylist(), len(bench.inputs.targets.names)
    findings.equal(file, "number of rows", len(rows), count, words=EXPECTED)
    images = {"x_in": bench.inputs.targets, "start": bench.inputs.starts[name]}
    found: dict[str, list[Tensor]] = {"x_in": [], "start": []}
    for number, row in enumerate(rows[:count]):
        for column, expected in images.items():
            pixels = checked_image(file, number, column, row[column], bench.subject.encoder.input_size, findings)
            if pixels is None:
                return None
            findings.equal(
                file, f"{column}_name", row[f"{column}_name"], expected.names[number], number, words=EXPECTED
            )
            if not torch.equal(pixels, expected.images[number]):
                findings.differ(
                    file, column, "other pixels", f"those of {expected.names[number]}", number, words=EXPECTED
                )
            found[column].append(pixels)
    findings.checked["PNGs of samples"] += 2 * len(rows)
    return None if len(rows) < count else (torch.stack(found["x_in"]), torch.stack(found["start"]))


def check_attacked(attack: Attack, bench: Bench, samples: Mapping[str, Samples | None], findings: Findings) -> bool:
    """Measure the images of an attack again: that they are PNGs of 8 bits in the ball, their distance and MAPE.

    Returns:
        Whether there is an image of the right size for every row.
    """
    folder, count, size = f"attacks/{attack.key}", len(bench.inputs.targets.names), bench.subject.encoder.input_size
    stored, found = samples.get(attack.starts), 0
    for path in sorted((findings.path / folder).glob("*.parquet")):
        file = f"{folder}/{path.name}"
        rows = [row for row in read_table(path).to_pylist() if findings.present(file, row, ("row",))]
        images = [checked_image(file, row["row"], "image", row["image"], size, findings) for row in rows]
        usable = [
            (row, image)
            for row, image in zip(rows, images, strict=True)
            if image is not None and 0 <= row["row"] < count
        ]
        if usable and stored is not None:
            _measure(file, attack, bench, stored, usable, findings)
        found += len(usable)
    if not found:
        findings.differ(folder, "images", "none", "some, as results.json lists no failure", words=EXPECTED)
    return found == count


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
