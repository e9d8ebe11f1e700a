"""A chain of stages: its value comes from Pillow, as in the product, and its gradient from torch."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodattack.core.pixels import dequantize
from oodattack.encoders.pipeline.base import Pipeline, straight_through
from oodattack.encoders.pipeline.own import to_pillow
from oodattack.encoders.pipeline.stage import Stage
from oodattack.images.rgb import to_tensor


class Chain(Pipeline):
    """Stages in the order in which they are applied.

    The value is that of the true pipeline at the nearest 8-bit image, which is what a file contains; only the gradient
    is that of the stages' surrogates, so that neither an attack nor a score can differ from what the product computes.

    Args:
        stages: at least one.

    >>> from oodattack.encoders.pipeline.crop import Crop
    >>> from oodattack.encoders.pipeline.jpeg import Jpeg
    >>> chain = Chain([Crop((4, 4)), Jpeg(90)])
    >>> chain.name, chain(torch.ones(2, 3, 8, 8)).shape
    ('crop=4+jpeg=90', torch.Size([2, 3, 4, 4]))
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.name = "+".join(map(str, stages))

    def forward(self, x: Tensor) -> Tensor:
        """See `Pipeline`."""
        images = [to_tensor(np.asarray(self.process(image))) for image in to_pillow(x)]
        value = dequantize(torch.stack(images), x.dtype).to(x.device)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return value
        for stage in self.stages:
            x = stage.surrogate(x)
        return straight_through(x, value)

    def process(self, image: Image.Image) -> Image.Image:
        """The true pipeline, for an RGB image of Pillow."""
        for stage in self.stages:
            image = stage.apply(image)
        return image
