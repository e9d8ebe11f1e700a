"""One batch: from rows of the plan to rows of a shard."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.algorithm import attack
from oodattack.core.ball import distance
from oodattack.core.checks import evaluation_mode
from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, quantize
from oodattack.core.problem import part_mape
from oodattack.encoders import Encoder
from oodattack.engines.seeds import sample_seed
from oodattack.images import decode, encode_png, fit
from oodattack.pipelines.plan import Plan
from oodattack.runs import png_name
from oodattack.settings.attack import NORMS
from oodattack.storage.tables import image_cell


def attack_rows(
    plan: Plan, encoder: Encoder, fast: nn.Module, rows: range, on_step: Callable[[], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Attack some rows of a plan.

    What counts is measured on the image decoded from the very PNG bytes that are stored, by the encoder as it was
    loaded. Folded weights differ from it in the last digits only, but no figure should rest on that.

    Args:
        plan: the plan.
        encoder: f, as it was loaded.
        fast: the same function prepared for speed, for the attack itself.
        rows: which rows.
        on_step: called after every step.

    Returns:
        The rows as a shard takes them, and the images that could not be decoded, with the reason.
    """
    settings, device = plan.settings, encoder.mean.device
    samples, x_in, starts, skipped = _read(plan, encoder.input_size, rows)
    if samples:
        originals = dequantize(torch.stack(x_in)).to(device)
        with evaluation_mode(encoder), torch.no_grad():
            z_in = encoder(originals)
        finite = z_in.isfinite().all(1)
        for i in (~finite).nonzero().flatten().tolist():
            skipped[samples[i]["x_in_name"]] = f"{samples[i]['x_in_name']}: its latent is NaN or infinite"
        kept = finite.nonzero().flatten().tolist()
        samples, x_in, starts = ([column[i] for i in kept] for column in (samples, x_in, starts))
        originals, z_in = originals[finite], z_in[finite]
    if not samples:
        return [], skipped
    start = dequantize(torch.stack(starts)).to(device)
    eps = torch.tensor([sample["eps"] for sample in samples], dtype=torch.float64)
    norm = NORMS[settings.norm]
    result = attack(
        fast,
        start,
        z_in,
        eps=eps.to(device, torch.float32 if device.type == "mps" else torch.float64),
        norm=norm,
        steps=settings.steps,
        method=settings.method,
        step_size=settings.step_size,
        restarts=settings.restarts,
        tolerance=settings.tolerance,
        seed=[sample["seed"] for sample in samples],
        pixels=256,
        grid_steps=settings.grid_steps,
        gradient=settings.gradient,
        parts=encoder.parts,
        check=False,  # asked once for the run
        callback=lambda _step, _mape: on_step(),
    )
    pngs = [encode_png(image) for image in quantize(result.image).cpu()]
    x_out = dequantize(torch.stack([decode(png) for png in pngs])).to(device)
    with evaluation_mode(encoder), torch.no_grad():
        z_start, z_out = encoder(start), encoder(x_out)
        classes = [_top_1(encoder, images) for images in (originals, start, x_out)]
    measures = {
        "mape": mape(z_out, z_in),
        "mape_float": result.float_mape,
        "mape_before": mape(z_start, z_in),
        "distance": distance(x_out, start, norm),
        "distance_float": result.float_distance,
        "distance_before": result.start_distance,
        "gradient_evaluations": result.gradient_evaluations,
        "forward_evaluations": result.forward_evaluations,
        "restart": result.restart,
    }
    columns = {name: [_or_none(v) for v in values.tolist()] for name, values in measures.items()}
    vectors = {
        "z_in": z_in.cpu().numpy(),
        "z_start": z_start.cpu().numpy(),
        "z_out": z_out.cpu().numpy(),
        # NaN, after a sample has stopped, is equal to nothing, and no figure needs it.
        "history": [history[~history.isnan()].numpy() for history in result.history.cpu()],
    }
    parts = part_mape(z_out, z_in, encoder.parts).tolist()
    table = []
    for i, sample in enumerate(samples):
        row = {**sample, "norm": settings.norm, "mape_note": result.notes[i]}
        row["mape_parts"] = [_or_none(part) for part in parts[i]]
        row["image"] = image_cell(pngs[i], png_name(row))
        row["x_in"] = image_cell(encode_png(x_in[i]), sample["x_in_name"])
        row["start"] = image_cell(encode_png(starts[i]), sample["start_name"])
        row.update({name: values[i] for name, values in columns.items()})
        row.update({name: values[i] for name, values in vectors.items()})
        for who, found in zip(("in", "start", "out"), classes, strict=True):
            row[f"class_{who}"], row[f"probability_{who}"] = found[i]
        table.append(row)
    return table, skipped


def _read(
    plan: Plan, size: tuple[int, int], rows: range
) -> tuple[list[dict[str, Any]], list[Tensor], list[Tensor], dict[str, str]]:
    """Read the images of some rows; what cannot be decoded, x_in or start, is left out, with the reason."""
    samples: list[dict[str, Any]] = []
    x_in: list[Tensor] = []
    starts: list[Tensor] = []
    skipped: dict[str, str] = {}
    read: dict[int, Tensor] = {}
    for row in rows:
        place, source, eps = plan.sample(row)
        index = plan.chosen[place]
        name = plan.images.names[index]
        try:
            if index not in read and name not in skipped:
                read[index] = fit(plan.images.read(index), size)
        except InputError as error:
            skipped[name] = str(error)
        if name in skipped:
            continue
        try:
            start_name, start = source.get(place)
        except InputError as error:
            skipped[str(error)] = str(error)  # the message names the file, which may serve many x_in
            continue
        seed = sample_seed(plan.settings.seed, name, start_name, eps)
        label = plan.label(source)
        samples.append(
            {"row": row, "x_in_name": name, "start_source": label, "start_name": start_name, "eps": eps, "seed": seed}
        )
        x_in.append(read[index])
        starts.append(start)
    return samples, x_in, starts, skipped


def _or_none(value: float) -> float | None:
    """NaN has no place in a column of numbers: what is undefined is missing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _top_1(encoder: Encoder, images: Tensor) -> list[tuple[str | None, float | None]]:
    """Most probable class of each image and its probability; None without a head."""
    probabilities = encoder.classify(images)
    if probabilities is None:
        return [(None, None)] * len(images)
    values, indices = probabilities.max(1)
    names = [encoder.classes[i] if encoder.classes else str(i) for i in indices.tolist()]
    return list(zip(names, values.tolist(), strict=True))
