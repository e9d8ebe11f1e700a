"""The common result of all encoder sources: a model and its input format."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Source:
    """A model with the input size, normalisation and class names that its source declares; None where undeclared.

    `headless`: the model was built without a classification head, as requested. `pipeline`: the transform that the
    weights declare, up to the normalisation, as a string for `oodattack.encoders.pipeline.parse`. `layer`: the layer
    whose value is z unless another one is requested.
    """

    model: nn.Module
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    classes: tuple[str, ...] | None = None
    headless: bool = False
    pipeline: str | None = None
    layer: str | None = None
