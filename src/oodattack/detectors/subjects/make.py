"""Make the subject of an encoder."""

from collections.abc import Sequence

import torch

from oodattack.detectors.subjects.bare import BareEncoder
from oodattack.detectors.subjects.classifier import Classifier
from oodattack.detectors.subjects.model import ImageModel, ModelOfImages
from oodattack.detectors.subjects.subject import Subject
from oodattack.encoders import Encoder
from oodattack.encoders.layers import OUTPUT, find_head


def make_subject(encoder: Encoder, *, layers: Sequence[str] | None = None) -> Subject:
    """Make the subject that detectors are fitted on and attacked through.

    A model with a score of its own becomes a `ModelOfImages`; a network without a linear head, or whose z is its output
    (``layer=output``), a `BareEncoder`; every other network a `Classifier`.

    Args:
        encoder: the network.
        layers: names of the layers for detectors that read several; by default the last at each resolution.

    Raises:
        InputError: if further operations follow a classifier's linear head, or a layer has no feature maps.

    >>> from oodattack.encoders import load_encoder
    >>> make_subject(load_encoder("python:tests.factories:tiny")).kind
    'classifier'
    >>> make_subject(load_encoder("python:tests.factories:tiny,layer=output")).kind
    'bare encoder'
    """
    if isinstance(encoder.model, ImageModel):
        return ModelOfImages(encoder, layers=layers)
    if encoder.layer == OUTPUT:
        return BareEncoder(encoder, layers=layers)
    grey = torch.full((2, 3, *encoder.input_size), 0.5).to(encoder.mean)
    with torch.no_grad():
        head = find_head(encoder.model, encoder.normalise(grey))
    return BareEncoder(encoder, layers=layers) if head is None else Classifier(encoder, layers=layers)
