"""Level 2 of a run: every row is measured again on the stored images."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodattack.core.checks import evaluation_mode
from oodattack.core.errors import InputError
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines import exact, in_batches, sample_seed
from oodattack.pipelines.batch import measure_images, to_batch
from oodattack.pipelines.verify.findings import RELATIVE, Findings
from oodattack.pipelines.verify.options import OnStage, Rescoring, opening
from oodattack.pipelines.verify.rescoring import MAPE_SCALE, check_ball, checked_image, is_same_encoder
from oodattack.runs import SCHEMA, Run
from oodattack.settings.ball import NORMS

IMAGES = ("x_in", "start", "image")
_LATENTS = ("z_in", "z_start", "z_out")
_NEVER_NULL = ("row", "eps", "x_in_name", "start_name", "mape_parts", *IMAGES, *_LATENTS)


def rescore_run(run: Run, options: Rescoring, findings: Findings, on_stage: OnStage) -> None:
    """Measure every row of a run again.

    Args:
        run: the run.
        options: how.
        findings: receives what is found.
        on_stage: called with the progress.

    Raises:
        InputError: if the encoder cannot be loaded.
    """
    settings = options.applied(run.header["settings"])
    on_stage("loading the encoder", 0, 1)
    with opening():
        encoder = load_encoder(
            settings["encoder"],
            device=settings["device"],
            trust=settings["trust"],
            pipeline=settings["pipeline"],
            native_size=settings["native_size"],
        )
    if not is_same_encoder("run.json", run.header["inputs"]["encoder"], encoder, findings):
        return
    for number in run.done():
        on_stage("scoring the images again", number, run.shard_count)
        file = f"shards/{run.shard(number).name}"
        try:
            table = run.read_shard(number)
        except InputError as error:
            findings.unchecked.append(f"the images of {file} were not scored again: {error}")
            continue
        if not set(SCHEMA.names) <= set(table.column_names):
            findings.unchecked.append(f"the images of {file} were not scored again, because it lacks columns")
            continue
        rows = table.to_pylist()
        check = partial(_check_rows, file, encoder, settings, findings, rows)
        with exact():
            for _ in in_batches(range(len(rows)), run.header["batch_size"], check):
                pass


def _check_rows(
    file: str,
    encoder: Encoder,
    settings: Mapping[str, Any],
    findings: Findings,
    rows: Sequence[Mapping[str, Any]],
    some: range,
) -> None:
    usable: list[Mapping[str, Any]] = []
    pixels: dict[str, list[Tensor]] = {name: [] for name in IMAGES}
    for row in rows[some.start : some.stop]:
        if not findings.present(file, row, _NEVER_NULL):
            continue
        images = {
            name: checked_image(file, row["row"], name, row[name], encoder.input_size, findings) for name in IMAGES
        }
        decoded = {name: image for name, image in images.items() if image is not None}
        if len(decoded) == len(images):
            usable.append(row)
            for name, image in decoded.items():
                pixels[name].append(image)
    if not usable:
        return
    x_in, start = (to_batch(pixels[name], encoder.mean.device) for name in ("x_in", "start"))
    with evaluation_mode(encoder), torch.no_grad():
        z_in = encoder(x_in)
    pngs = [row["image"]["bytes"] for row in usable]
    measured = measure_images(encoder, NORMS[settings["norm"]], x_in, start, pngs, z_in)
    for place, row in enumerate(usable):
        _check_row(file, row, {name: values[place] for name, values in measured.items()}, settings, findings)
    findings.checked["PNGs re-scored"] += len(usable)


def _check_row(
    file: str, row: Mapping[str, Any], measured: Mapping[str, Any], settings: Mapping[str, Any], findings: Findings
) -> None:
    number = row["row"]
    seed = sample_seed(settings["seed"], row["x_in_name"], row["start_name"], row["eps"])
    findings.equal(file, "seed", row["seed"], seed, number)
    check_ball(file, number, row["eps"], measured["distance"], findings)
    findings.close(file, "distance", row["distance"], measured["distance"], number)
    for name in ("mape", "mape_before"):
        findings.close(file, name, row[name], measured[name], number, scale=MAPE_SCALE)
    findings.equal(file, "number of mape_parts", len(row["mape_parts"]), len(measured["mape_parts"]), number)
    for place, (one, other) in enumerate(zip(row["mape_parts"], measured["mape_parts"], strict=False)):
        findings.close(file, f"mape_parts[{place}]", one, other, number, scale=MAPE_SCALE)
    for image in ("in", "start", "out"):
        findings.equal(file, f"class_{image}", row[f"class_{image}"], measured[f"class_{image}"], number)
        findings.close(
            file, f"probability_{image}", row[f"probability_{image}"], measured[f"probability_{image}"], number
        )
    for name in _LATENTS:
        _check_latent(file, name, row, measured[name], findings)


def _check_latent(file: str, name: str, row: Mapping[str, Any], measured: Any, findings: Findings) -> None:
    """Report the entry of a latent that differs most, if it differs by more than rounding."""
    stored = np.array(row[name], dtype=np.float32)
    if stored.shape != measured.shape:
        findings.differ(file, f"length of {name}", len(stored), len(measured), row["row"])
        return
    error = np.abs(stored - measured)
    worst = int(error.argmax())
    if not error[worst] <= RELATIVE * np.abs(measured).max():
        findings.differ(file, f"{name}[{worst}]", float(stored[worst]), float(measured[worst]), row["row"])
