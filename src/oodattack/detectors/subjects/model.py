"""A model of images with a score of its own, such as a flow or an autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.detectors.base import Detector, Judged
from oodattack.detectors.subjects.bare import BareEncoder
from oodattack.detectors.subjects.view import View
from oodattack.encoders import Encoder
from oodattack.encoders.layers import OUTPUT, record


@runtime_checkable
class ImageModel(Protocol):
    """A module with a score of its own. `reads` takes normalised images (B, 3, H, W); both methods are differentiable.

    Calling the module returns its latent, or a tuple that begins with the latent: ``z`` or ``(z, log_determinant)``.
    """

    def reads(self, x: Tensor) -> Tensor:
        """(B, K): what the score is computed from, such as the log-likelihoods of all levels, or squared errors."""

    def judge(self, reads: Tensor) -> Tensor:
        """The score (B,) of what is read; higher is more out-of-distribution."""


class ModelOfImages(BareEncoder):
    """A model of images: its own score is a detector, ModelScore, besides the detectors that read its latent.

    Args:
        encoder: its model is an `ImageModel`; z is the latent that the model returns.
        layers: as in `BareEncoder`.

    Raises:
        InputError: if the model has no score of its own.
    """

    kind = "model of images"

    def __init__(self, encoder: Encoder, *, layers: Sequence[str] | None = None) -> None:
        if not isinstance(encoder.model, ImageModel):
            raise InputError(f"expected a model with reads(x) and judge(reads), got {type(encoder.model).__name__}")
        self.model: ImageModel = encoder.model
        super().__init__(encoder, layers=layers)

    @staticmethod
    def _features(encoder: Encoder) -> View:
        # Not the input of the last linear layer, which may be anywhere in such a model.
        grey = torch.full((1, 3, *encoder.input_size), 0.5).to(encoder.mean)
        with torch.no_grad():
            output = record(encoder.model, [], encoder.normalise(grey))[0]
        return View(encoder, [OUTPUT], [output[0].flatten().shape], name="features")

    def own_detectors(self) -> Mapping[str, Detector]:
        """See `Subject`."""
        return {"ModelScore": ModelScore(self.encoder, self.model)}


class ModelScore(Judged):
    """The score of a model of images as a detector."""

    def __init__(self, encoder: Encoder, model: ImageModel) -> None:
        self.encoder, self.model = encoder, model

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.model.reads(self.encoder.normalise(images))

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        return self.model.judge(reads)
