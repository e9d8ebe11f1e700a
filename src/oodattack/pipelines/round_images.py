"""The images of the rounds: which are attacked, which set the thresholds, and what is stored of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.auditing.data import in_turn
from oodattack.core.errors import InputError
from oodattack.core.pixels import quantize
from oodattack.images import ImageSource, encode_png, evenly
from oodattack.settings.train import TrainSettings
from oodattack.storage.tables import image_cell
from oodattack.training.data import Labelled, Outliers

HELD_OUT = 1000  # maximum number of test images that set the thresholds


@dataclass(frozen=True)
class RoundImages:
    """The images of all rounds.

    Attributes:
        train: labelled training images, the targets of the attacks whose images are trained on.
        x_test: (N, 3, H, W) uint8 test images, the targets of the attacks that measure.
        x_test_names: their file names.
        inside: (M, 3, H, W) uint8 other test images, which are not attacked and set the thresholds.
        starts: (N, 3, H, W) uint8 outliers that are trained on.
        held_out: (N, 3, H, W) uint8 outliers that are not trained on, repeated in turn if there are fewer than N.
        held_out_names: their file names.
        groups: a number for each row of ``held_out``, as text; repeated images share it.
    """

    train: Labelled
    x_test: Tensor
    x_test_names: list[str]
    inside: Tensor
    starts: Tensor
    held_out: Tensor
    held_out_names: list[str]
    groups: list[str]


def choose_images(settings: TrainSettings, source: ImageSource, test: Labelled, outliers: Outliers) -> RoundImages:
    """Choose the images of all rounds.

    Args:
        settings: the settings of the training.
        source: the training images.
        test: labelled images to measure with.
        outliers: natural outliers, half of them held out.

    Raises:
        InputError: if there are fewer than 2 test images or outliers.
    """
    train = Labelled(source, settings.size, test.classes)
    if len(test) < 2:
        raise InputError(f"expected at least 2 test images for rounds, one of them held out, got {len(test)}")
    count = min(settings.round_images, len(test) // 2, len(train))

    def some(places: range) -> list[int]:
        chosen = [places[i] for i in evenly(len(places), count)]
        return [chosen[i % len(chosen)] for i in range(count)]

    def get(places: list[int]) -> Tensor:
        return torch.stack([outliers.get(i) for i in places])

    if not outliers.held_out:
        raise InputError(f"expected at least 2 outliers for rounds, got {len(outliers)}")
    attacked = evenly(len(test), count)
    others = sorted(set(range(len(test))) - set(attacked))
    x_test, inside = (
        torch.stack([quantize(test[i][0]) for i in places])
        for places in (attacked, [others[i] for i in evenly(len(others), HELD_OUT)])
    )
    held_out = some(outliers.held_out)
    return RoundImages(
        train=train,
        x_test=x_test,
        x_test_names=[test.source.names[i] for i in attacked],
        inside=inside,
        starts=get(some(outliers.trained)),
        held_out=get(held_out),
        held_out_names=[outliers.name(i) for i in held_out],
        groups=[str(i) for i in held_out],
    )


def attacked_rows(
    images: RoundImages, attacked: Mapping[str, tuple[Tensor, Tensor, Tensor]], natural: Tensor
) -> list[dict[str, Any]]:
    """The rows of `ATTACKED_IN_ROUND`, from the images, MAPE and scores of each attack."""
    before = in_turn(natural, len(images.groups)).double().tolist()
    x_in, starts = (
        [image_cell(encode_png(image), name) for image, name in zip(pixels, names, strict=True)]
        for pixels, names in ((images.x_test, images.x_test_names), (images.held_out, images.held_out_names))
    )
    return [
        {
            "attack": name,
            "row": row,
            "x_in_name": images.x_test_names[row],
            "x_in": x_in[row],
            "start_name": images.held_out_names[row],
            "start": starts[row],
            "image": image_cell(encode_png(image), f"{name}-{row:05d}.png"),
            "mape": float(mape[row]),
            "score_before": before[row],
            "score": float(score[row]),
        }
        for name, (found, mape, score) in attacked.items()
        for row, image in enumerate(found)
    ]
