"""The encoder f, which maps images in [0, 1] to latent vectors z."""

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
from oodattack.encoders.pipeline.base import Pipeline


class Encoder(nn.Module):
    """A model as a function f(x) = z, with the pipeline, if any, and the normalisation as its first layers.

    z concatenates the values of the named layers in the given order, each flattened to `(B, -1)` (including spatial
    activations). By default it is the input of the model's last linear layer, or the output if the model has none.

    Args:
        model: maps normalised images `(B, 3, H, W)` to a tensor, or to a tuple, mapping or dataclass, of which the
            first tensor is used. The model is put in eval mode but otherwise left alone; no hooks remain on it.
        name: the string that names the encoder in results.
        input_size: `(H, W)` in pixels, of the images that f takes; with a pipeline, before it.
        layer: names from `model.named_modules()` joined by `+`; `input of NAME` for a layer's input; `output`.
        mean: per channel, for pixels in [0, 1]; the model receives `(x - mean) / std`.
        std: per channel, for pixels in [0, 1].
        classes: names of the model's outputs, if it is a classifier.
        pipeline: what happens to an image file before the model.

    Attributes:
        layer: the layers that make up z, e.g. `input of fc`, in the form that the argument `layer` takes.
        latent_dim: K, the length of z.
        parts: the length of each layer's part of z; `(K,)` for one layer.
        has_gradient: whether the pipeline has a gradient; without one, attacks need SPSA.

    Raises:
        InputError: if a layer is unknown or its first axis is not the batch, the model does not accept images of
            this size, or the number of class names differs from the number of outputs.

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
        pipeline: Pipeline | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.pipeline = pipeline
        self.name = name
        self.input_size = input_size
        self.classes = None if classes is None else tuple(classes)
        device = next(model.parameters(), torch.empty(0)).device
        self.register_buffer("mean", torch.tensor(mean, device=device).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, device=device).view(3, 1, 1))

        grey = torch.full((2, 3, *input_size), 0.5, device=device)
        with torch.no_grad(), self._explained():
            self.has_gradient = pipeline is None or pipeline.has_gradient(grey)
            self._layers = self._choose(layer, grey)
            output, *latents = record(model, self._layers, self.normalise(grey))
        for part, latent in zip(self._layers, latents, strict=True):
            if latent.ndim == 0 or len(latent) != len(grey):
                raise InputError(
                    f"expected the batch as first axis of layer {part!r} of {name}, got shape "
                    f"{tuple(latent.shape)} for {len(grey)} images; choose another layer"
                )
        self.layer = "+".join(self._layers)
        self.parts = tuple(prod(latent.shape[1:]) for latent in latents)
        self.latent_dim = sum(self.parts)
        # A single output is a score rather than a distribution; and if z is the output, the model has no separate head.
        self._has_head = output.ndim == 2 and output.shape[1] > 1 and self._layers != [OUTPUT]
        if classes is not None and output.shape[-1] != len(classes):
            raise InputError(f"expected {output.shape[-1]} class names for {name}, got {len(classes)}")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the latents of images.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Returns:
            z, `(B, K)`.

        Raises:
            InputError: if the shape is not `(B, 3, *input_size)`.
        """
        return self.latents(self.normalise(x))

    def latents(self, normalised: Tensor) -> Tensor:
        """Compute z, `(B, K)`, from images that `normalise` has normalised."""
        _, *latents = record(self.model, self._layers, normalised)
        return torch.cat([latent.reshape(len(normalised), -1) for latent in latents], dim=1)

    def classify(self, x: Tensor) -> Tensor | None:
        """Compute the softmax of the model's 2-D output, or return None if the model has no head besides z.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Returns:
            Probabilities `(B, C)`, meaningful only if the model is a classifier.

        Raises:
            InputError: if the shape is not `(B, 3, *input_size)`.
        """
        if not self._has_head:
            return None
        return record(self.model, [], self.normalise(x))[0].softmax(dim=1)

    def digest(self) -> str:
        """SHA-256 (hex) of the model's repr, weights, normalisation, layer, class names and pipeline.

        Differences between two models' `forward` that their repr does not show are not detected.

        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> len(Encoder(net, name="mine", input_size=(2, 2)).digest())
        64
        """
        structure = re.sub(r"0x[0-9a-fA-F]+", "", repr(self.model))  # memory addresses differ between processes
        sha = hashlib.sha256(f"{structure}\n{self.layer}\n{self.classes}".encode())
        if self.pipeline is not None:
            sha.update(f"\n{self.pipeline.name}".encode())
        for name, tensor in self.state_dict().items():
            sha.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            # As bytes, because NumPy lacks some of torch's types (bfloat16).
            sha.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def normalise(self, x: Tensor) -> Tensor:
        """Send images through the pipeline, if there is one, and normalise them for the model.

        Args:
            x: float `(B, 3, H, W)` in [0, 1].

        Raises:
            InputError: if the shape is not `(B, 3, *input_size)`; a single channel would silently broadcast to three.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, *self.input_size):
            height, width = self.input_size
            raise InputError(
                f"expected images of shape (B, 3, {height}, {width}) for {self.name}, got {tuple(x.shape)}; "
                "resize them, or load the encoder with size="
            )
        if self.pipeline is not None:
            x = self.pipeline(x)
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
        """Convert any exception that the model raises on its first images into an InputError."""
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
