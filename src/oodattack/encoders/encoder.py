"""The encoder: f, from images in [0, 1] to a latent vector z."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.encoders.layers import INPUT_OF, OUTPUT, check_layers, find_head, record
from oodattack.encoders.messages import reason


class Encoder(nn.Module):
    """A model seen as f(x) = z, with its normalisation as first layer.

    z is what the named layers give, each flattened to `(B, -1)` (spatial activations too), joined in the
    order given. By default it is the input of the model's last linear layer; where there is none, its output.

    Args:
        model: maps normalised `(B, 3, H, W)` to a tensor, or to a tuple, mapping or dataclass whose first
            tensor counts. It is put in eval mode and stays the caller's otherwise: no hooks are left on it.
        name: the string that names the encoder in results.
        input_size: `(H, W)` in pixels.
        layer: names of `model.named_modules()` joined by `+`; `input of NAME` for a layer's input; `output`.
        mean: of each channel, for pixels in [0, 1]; `(x - mean) / std` is what the model sees.
        std: of each channel, for pixels in [0, 1].
        classes: names of the model's outputs, if it is a classifier.

    Attributes:
        layer: what z is, e.g. `input of fc`; can be given again as `layer`.
        latent_dim: K, the length of z.
        parts: the length of each layer's part of z; `(K,)` for one layer.

    Raises:
        InputError: a layer is unknown or its first axis is not the batch, the model does not accept images of
            this size, or the number of class names is not the number of outputs.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> f = Encoder(net, name="mine", input_size=(8, 8))
    >>> f.layer, f.latent_dim, tuple(f(torch.rand(5, 3, 8, 8)).shape)
    ('input of 2', 144, (5, 144))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        input_size: tuple[int, int],
        layer: str | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.name = name
        self.input_size = input_size
        self.classes = None if classes is None else tuple(classes)
        device = next(model.parameters(), torch.empty(0)).device
        self.register_buffer("mean", torch.tensor(mean, device=device).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, device=device).view(3, 1, 1))

        grey = torch.full((2, 3, *input_size), 0.5, device=device)
        with torch.no_grad(), self._explained():
            self._layers = self._choose(layer, grey)
            output, *latents = record(model, self._layers, self.normalise(grey))
        for part, latent in zip(self._layers, latents, strict=True):
            if latent.ndim == 0 or len(latent) != len(grey):
                raise InputError(
                    f"expected the batch as first axis of layer {part!r} of {name}, got shape "
                    f"{tuple(latent.shape)} for {len(grey)} images: choose another layer"
                )
        self.layer = "+".join(self._layers)
        self.parts = tuple(prod(latent.shape[1:]) for latent in latents)
        self.latent_dim = sum(self.parts)
        # One output is a score, no distribution; and where z is the output there is no head beside it.
        self._has_head = output.ndim == 2 and output.shape[1] > 1 and self._layers != [OUTPUT]
        if classes is not None and output.shape[-1] != len(classes):
            raise InputError(f"expected {output.shape[-1]} class names for {name}, got {len(classes)}")

    def forward(self, x: Tensor) -> Tensor:
        """The latents of images.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Returns:
            z, `(B, K)`.

        Raises:
            InputError: the shape is not `(B, 3, *input_size)`.
        """
        return self.latents(self.normalise(x))

    def latents(self, normalised: Tensor) -> Tensor:
        """z, `(B, K)`, of images as the model itself is given them: what `normalise` returns."""
        _, *latents = record(self.model, self._layers, normalised)
        return torch.cat([latent.reshape(len(normalised), -1) for latent in latents], dim=1)

    def classify(self, x: Tensor) -> Tensor | None:
        """The softmax of the model's 2-D output, or None if the model has no head beside z.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Returns:
            Probabilities `(B, C)`. They mean something only if the model is a classifier.

        Raises:
            InputError: the shape is not `(B, 3, *input_size)`.
        """
        if not self._has_head:
            return None
        return record(self.model, [], self.normalise(x))[0].softmax(dim=1)

    def digest(self) -> str:
        """SHA-256 (hex) over the structure that the model prints, its weights, normalisation, layer and classes.

        What two models do in `forward` without printing it is not seen.

        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> len(Encoder(net, name="mine", input_size=(2, 2)).digest())
        64
        """
        structure = re.sub(r"0x[0-9a-fA-F]+", "", repr(self.model))  # addresses change with every process
        sha = hashlib.sha256(f"{structure}\n{self.layer}\n{self.classes}".encode())
        for name, tensor in self.state_dict().items():
            sha.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            # As bytes, because numpy lacks some of torch's types (bfloat16).
            sha.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def normalise(self, x: Tensor) -> Tensor:
        """What the model itself is given for images.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Raises:
            InputError: the shape is not `(B, 3, *input_size)`; one channel would broadcast to three in silence.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, *self.input_size):
            height, width = self.input_size
            raise InputError(
                f"expected images of shape (B, 3, {height}, {width}) for {self.name}, got {tuple(x.shape)}: "
                "resize them, or load the encoder with size="
            )
        return (x - self.mean) / self.std

    def _choose(self, layer: str | None, grey: Tensor) -> list[str]:
        if layer is not None:
            layers = [part.strip() for part in layer.split("+")]
            check_layers(self.model, layers)
            return layers
        head = find_head(self.model, self.normalise(grey))
        return [OUTPUT] if head is None else [INPUT_OF + head]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn whatever a model raises on its first images into one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            height, width = self.input_size
            raise InputError(
                f"expected {self.name} to accept a batch of 2 images of {height}x{width}, "
                f"got {reason(error)} (is size= right?)"
            ) from error
