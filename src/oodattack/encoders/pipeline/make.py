"""Make the pipeline of an encoder, and check that the two fit."""

import torch

from oodattack.core.errors import InputError
from oodattack.encoders.messages import reason
from oodattack.encoders.pipeline.base import Pipeline
from oodattack.encoders.pipeline.parse import parse_pipeline

WEIGHTS = "weights"


def make_pipeline(
    spec: str, declared: str | None, native_size: tuple[int, int], size: tuple[int, int], encoder: str
) -> Pipeline:
    """Make a pipeline from a string (see `parse_pipeline`); `weights` stands for what the encoder's weights declare.

    Args:
        spec: the pipeline.
        declared: the pipeline that the encoder's weights declare, if any.
        native_size: (H, W) in pixels of the images that enter the pipeline.
        size: (h, w) in pixels of the network's images.
        encoder: name of the encoder in errors.

    Raises:
        InputError: if the pipeline is invalid or fails, or its images are not of the network's size.

    >>> make_pipeline("weights", "resize=256+crop=224", (300, 400), (224, 224), "mine").name
    'resize=256:bilinear+crop=224'
    """
    if spec == WEIGHTS and declared is None:
        raise InputError(
            f"expected weights that declare their pipeline, got {encoder}, which declares none; give it as a chain such"
            " as resize=256+crop=224"
        )
    pipeline = parse_pipeline(declared if spec == WEIGHTS and declared is not None else spec)
    height, width = native_size
    try:
        with torch.no_grad():
            got = pipeline(torch.full((2, 3, height, width), 0.5)).shape[2:]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"expected the pipeline {pipeline.name} to accept images of {height}x{width}, got {reason(error)}"
        ) from error
    if tuple(got) != size:
        raise InputError(
            f"expected the pipeline {pipeline.name} to turn images of {height}x{width} into {size[0]}x{size[1]} for"
            f" {encoder}, got {got[0]}x{got[1]}; add crop={size[0]}, or give another native_size"
        )
    return pipeline
