"""Attack one batch: from rows of the plan to rows of a shard."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.attack import attack
from oodattack.core.ball import distance
from oodattack.core.checks import evaluation_mode
from oodattack.core.errors import InputError
from oodattack.core.gradient import Gradient
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, quantize
from oodattack.core.problem import part_mape
from oodattack.core.result import AttackResult
from oodattack.encoders import Encoder
from oodattack.engines import sample_seed
from oodattack.images import decode, encode_png, fit
from oodattack.pipelines.plan import Plan
from oodattack.runs import png_name
from oodattack.settings.attack import AttackSettings
from oodattack.settings.ball import NORMS
from oodattack.storage.tables import image_cell


@dataclass(frozen=True)
class _Samples:
    """The samples of a batch: the columns that identify each sample, and its images, uint8 (3, H, W)."""

    columns: Sequence[dict[str, Any]]
    x_in: Sequence[Tensor]
    starts: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.columns)

    def keep(self, rows: Sequence[int]) -> "_Samples":
        return _Samples([self.columns[i] for i in rows], [self.x_in[i] for i in rows], [self.starts[i] for i in rows])


def attack_rows(
    plan: Plan, encoder: Encoder, fast: nn.Module, gradient: Gradient, rows: range, on_step: Callable[[], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Attack some rows of a plan.

    All reported figures are measured on the image decoded from the stored PNG bytes, with the encoder as it was loaded,
    behind its pipeline if it has one.
    The fast copy differs from it only in the last digits, but no reported figure should depend on that.

    Args:
        plan: the plan.
        encoder: f, as loaded.
        fast: the same function prepared for speed, used for the attack itself.
        gradient: the source of gradients.
        rows: numbers of the rows.
        on_step: called after every step.

    Returns:
        The rows, with the columns of a shard; and the images that could not be used, by name, with the reason.
    """
    device = encoder.mean.device
    samples, skipped = _read(plan, encoder.input_size, rows)
    if len(samples):
        with evaluation_mode(encoder), torch.no_grad():
            z_in = encoder(to_batch(samples.x_in, device))
        finite = z_in.isfinite().all(1)
        for i in (~finite).nonzero().flatten().tolist():
            name = samples.columns[i]["x_in_name"]
            skipped[name] = f"{name}: its latent is NaN or infinite"
        samples, z_in = samples.keep(finite.nonzero().flatten().tolist()), z_in[finite]
    if not len(samples):
        return [], skipped
    start = to_batch(samples.starts, device)
    result = _attack(plan.settings, samples, encoder.parts, fast, gradient, start, z_in, on_step)
    pngs = [encode_png(image) for image in quantize(result.image).cpu()]
    norm = NORMS[plan.settings.norm]
    columns = measure_images(encoder, norm, to_batch(samples.x_in, device), start, pngs, z_in) | _of_result(result)
    pipeline = encoder.pipeline and encoder.pipeline.name
    table = []
    for i, sample in enumerate(samples.columns):
        row = {
            **sample,
            "norm": plan.settings.norm,
            "pipeline": pipeline,
            **{name: values[i] for name, values in columns.items()},
        }
        row["image"] = image_cell(pngs[i], png_name(row))
        row["x_in"] = image_cell(encode_png(samples.x_in[i]), sample["x_in_name"])
        row["start"] = image_cell(encode_png(samples.starts[i]), sample["start_name"])
        table.append(row)
    return table, skipped


def _read(plan: Plan, size: tuple[int, int], rows: range) -> tuple[_Samples, dict[str, str]]:
    """Read the images of some rows; those that cannot be decoded are returned by name, with the reason."""
    columns: list[dict[str, Any]] = []
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
            skipped[str(error)] = str(error)  # by message, which names the file: many x_in may share a start
            continue
        seed = sample_seed(plan.settings.seed, name, start_name, eps)
        label = plan.label(source)
        columns.append(
            {"row": row, "x_in_name": name, "start_source": label, "start_name": start_name, "eps": eps, "seed": seed}
        )
        x_in.append(read[index])
        starts.append(start)
    return _Samples(columns, x_in, starts), skipped


def _attack(
    settings: AttackSettings,
    samples: _Samples,
    parts: Sequence[int],
    fast: nn.Module,
    gradient: Gradient,
    start: Tensor,
    z_in: Tensor,
    on_step: Callable[[], None],
) -> AttackResult:
    eps = torch.tensor([sample["eps"] for sample in samples.columns], dtype=torch.float64)
    return attack(
        fast,
        start,
        z_in,
        eps=eps.to(start.device, torch.float32 if start.device.type == "mps" else torch.float64),
        norm=NORMS[settings.norm],
        steps=settings.steps,
        method=settings.method,
        step_size=settings.step_size,
        restarts=settings.restarts,
        tolerance=settings.tolerance,
        seed=[sample["seed"] for sample in samples.columns],
        pixels=256,
        grid_steps=settings.grid_steps,
        gradient=gradient,
        parts=parts,
        check=False,  # done once for the run
        callback=lambda _step, _mape: on_step(),
    )


def measure_images(
    encoder: Encoder, norm: float, x_in: Tensor, start: Tensor, pngs: Sequence[bytes], z_in: Tensor
) -> dict[str, Sequence[Any]]:
    """The columns of a shard that follow from its images and the encoder, by name.

    Args:
        encoder: f, as loaded.
        norm: 1, 2 or infinity.
        x_in: (B, 3, H, W) in [0, 1], on the encoder's device.
        start: (B, 3, H, W) in [0, 1], on the encoder's device.
        pngs: x_out.
        z_in: (B, K), the latents of x_in.
    """
    x_out = to_batch([decode(png) for png in pngs], start.device)
    with evaluation_mode(encoder), torch.no_grad():
        z_start, z_out = encoder(start), encoder(x_out)
        classes = {"in": _top_1(encoder, x_in), "start": _top_1(encoder, start), "out": _top_1(encoder, x_out)}
    numbers = {
        "mape": mape(z_out, z_in),
        "mape_before": mape(z_start, z_in),
        "distance": distance(x_out, start, norm),
    }
    return {
        **_as_lists(numbers),
        "mape_parts": [[_or_none(part) for part in row] for row in part_mape(z_out, z_in, encoder.parts).tolist()],
        **{f"class_{image}": [name for name, _ in found] for image, found in classes.items()},
        **{f"probability_{image}": [probability for _, probability in found] for image, found in classes.items()},
        "z_in": list(z_in.cpu().numpy()),
        "z_start": list(z_start.cpu().numpy()),
        "z_out": list(z_out.cpu().numpy()),
    }


def _of_result(result: AttackResult) -> dict[str, Sequence[Any]]:
    """The columns of a shard that the attack reports, by name."""
    numbers = {
        "mape_float": result.float_mape,
        "distance_float": result.float_distance,
        "distance_before": result.start_distance,
        "gradient_evaluations": result.gradient_evaluations,
        "forward_evaluations": result.forward_evaluations,
        "restart": result.restart,
    }
    return {
        **_as_lists(numbers),
        "mape_note": result.notes,
        # NaN follows after a sample has stopped; it is omitted, because no plot needs it and NaN never compares equal.
        "history": [history[~history.isnan()].numpy() for history in result.history.cpu()],
    }


def _as_lists(numbers: Mapping[str, Tensor]) -> dict[str, Sequence[Any]]:
    return {name: [_or_none(value) for value in values.tolist()] for name, values in numbers.items()}


def to_batch(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Float (B, 3, H, W) in [0, 1] on the device."""
    return dequantize(torch.stack(list(images))).to(device)


def _or_none(value: float) -> float | None:
    """None instead of NaN: undefined numbers are stored as null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _top_1(encoder: Encoder, images: Tensor) -> list[tuple[str | None, float | None]]:
    """The most probable class of each image and its probability; None if the encoder has no head."""
    probabilities = encoder.classify(images)
    if probabilities is None:
        return [(None, None)] * len(images)
    values, indices = probabilities.max(1)
    names = [encoder.classes[i] if encoder.classes else str(i) for i in indices.tolist()]
    return list(zip(names, values.tolist(), strict=True))
