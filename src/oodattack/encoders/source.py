"""What every kind of source gives: a model, and what is known of its input."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Source:
    """A model, and what its origin says of it; `size` is None where it says nothing.

    `headless`: the model was built without a classification head, as asked.
    """

    model: nn.Module
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    classes: tuple[str, ...] | None = None
    headless: bool = False
