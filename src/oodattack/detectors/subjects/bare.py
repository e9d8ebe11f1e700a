"""An encoder without a classification head, such as a self-supervised one."""

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from oodattack.detectors.subjects.maps import feature_maps, layers_view
from oodattack.detectors.subjects.subject import Subject
from oodattack.detectors.subjects.view import View
from oodattack.encoders import Encoder
from oodattack.encoders.layers import record
from oodattack.images.labels import Labels


class BareEncoder(Subject):
    """An encoder without logits: detectors that read features or several layers apply, those that read logits do not.

    Class-conditional detectors (Mahalanobis, RMD, GMM) use the classes of the training images, whatever the network was
    trained for. Without classes, all training images form one class: Mahalanobis and GMM then fit a single Gaussian, as
    in SSD (Sehwag et al. 2021), and RMD, which compares classes with their union, does not apply.

    Args:
        encoder: the network; z is the output of its `layer`.
        layers: names of the layers for detectors that read several; by default the last at each resolution.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> subject = BareEncoder(Encoder(net, name="mine", input_size=(8, 8)))
    >>> tuple(subject.features(torch.rand(2, 3, 8, 8)).shape), subject.layer_names
    ((2, 4), ('1',))
    >>> subject.logits
    Traceback (most recent call last):
        ...
    oodattack.detectors.base.NotApplicableError: it needs logits, and the encoder has no classification head
    """

    kind = "bare encoder"
    labels_without = "one class for all"

    def __init__(self, encoder: Encoder, *, layers: Sequence[str] | None = None) -> None:
        noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
        with torch.no_grad():
            x = encoder.normalise(noise)
            output = record(encoder.model, [], x)[0]
            seen = feature_maps(encoder.model, x)
        super().__init__(
            encoder,
            self._features(encoder),
            *layers_view(encoder, seen, output.shape[1:], layers),
        )

    @staticmethod
    def _features(encoder: Encoder) -> View:
        return View(encoder, encoder.layer.split("+"), [Size([encoder.latent_dim])], name="features")

    def class_order(self, labels: Labels) -> Sequence[str] | None:
        """Any order of the classes; None if all images have the same class: such labels carry no information."""
        order = labels.classes or sorted(set(labels.names))
        return order if len(set(labels.names)) > 1 else None

    def guess(self, images: Tensor) -> Tensor:
        """The same class for all images."""
        return torch.zeros(len(images), dtype=torch.long)
