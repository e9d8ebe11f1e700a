"""The images of a data set: any indexable collection of images, or of images with class numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.core.pixels import quantize
from oodattack.images.decode import reason
from oodattack.images.labels import Labels, by_number
from oodattack.images.rgb import rgb


@dataclass(frozen=True, eq=False)
class DatasetSource:
    """The images of a data set.

    Attributes:
        spec: the string that names it.
        names: NAME/INDEX.
        dataset: item i is an image, or a tuple that begins with an image and its class number. An image is a Pillow
            image or a tensor (3, H, W) or (1, H, W), uint8 or floating point in [0, 1].
    """

    spec: str
    names: tuple[str, ...]
    dataset: Any

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`; raises InputError if it cannot be decoded."""
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[Tensor, Any]:
        """An image and its class number, if the item has one."""
        name = self.names[index]
        try:
            item = self.dataset[index]
        except Exception as error:  # whatever a data set's own loader raises
            raise InputError(f"cannot decode {name} of {self.spec}: {reason(error)}") from error
        image, label = _parts(item)
        if isinstance(image, Image.Image):
            return rgb(image), label
        if isinstance(image, Tensor) and image.ndim == 3:
            return to_levels(image[None], f"{name} of {self.spec}")[0], label
        raise InputError(f"expected {self.spec} to give Pillow images or tensors (3, H, W), got {_described(image)}")

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """The data set's own labels; if it has no list of them, the images are decoded to get them."""
        numbers = _numbers(self.dataset)
        try:
            found = [_parts(self.dataset[i])[1] if numbers is None else numbers[i] for i in indices]
        except Exception as error:  # whatever a data set's own loader raises
            raise InputError(f"cannot read the classes of {self.spec}: {reason(error)}") from error
        return by_number(found, _classes(self.dataset))

    def content(self, index: int) -> bytes:
        """The pixels, after the shape and the class number, if there is one: images of data sets are decoded."""
        image, label = self._read(index)
        number = by_number([label])
        return f"{tuple(image.shape)}{number and number.names}".encode() + image.numpy().tobytes()


def to_levels(images: Tensor, name: str) -> Tensor:
    """Images (B, 3, H, W) or (B, 1, H, W), uint8 or in [0, 1], as uint8 (B, 3, H, W) on the CPU.

    Raises:
        InputError: for another shape, or pixels outside [0, 1].

    >>> to_levels(torch.full((1, 1, 1, 1), 0.5), "images").flatten().tolist()
    [128, 128, 128]
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"expected {name} of shape (3, H, W) each, got {tuple(images.shape[1:])}")
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise InputError(f"expected {name} in uint8 or floating point, got {images.dtype}; convert them")
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise InputError(
                f"expected {name} with pixels in [0, 1], got {low:.3g} to {high:.3g}; leave normalisation to the model"
                " (oodattack.encoders.Encoder has mean and std)"
            )
        images = quantize(images.detach())
    return images.expand(-1, 3, -1, -1).cpu().contiguous()


def _parts(item: Any) -> tuple[Any, Any]:
    """The image of an item, and its class number or None."""
    if not isinstance(item, tuple | list):
        return item, None
    return item[0], item[1] if len(item) > 1 else None


def _numbers(dataset: Any) -> Any:
    """The class number of each item, or None; torchvision's data sets have no common attribute for them."""
    if isinstance(dataset, torch.utils.data.Subset):
        inner = _numbers(dataset.dataset)
        return None if inner is None else [inner[i] for i in dataset.indices]
    lists: list[Any] = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels")]
    return next((one for one in lists if hasattr(one, "__len__") and len(one) == len(dataset)), None)


def _classes(dataset: Any) -> Any:
    return (
        _classes(dataset.dataset) if isinstance(dataset, torch.utils.data.Subset) else getattr(dataset, "classes", None)
    )


def _described(image: Any) -> str:
    return f"a tensor {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
