"""Public data sets, read through torchvision."""

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.decode import reason
from oodattack.images.files import numbered
from oodattack.images.labels import Labels, by_number
from oodattack.images.rgb import rgb

PREFIX = "torchvision:"


@dataclass(frozen=True)
class PublicSource:
    """The images of a torchvision data set.

    Attributes:
        spec: the string that the user gave.
        names: NAME/INDEX.
        dataset: the torchvision data set.
    """

    spec: str
    names: tuple[str, ...]
    dataset: Any

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Image `index` at its native size, uint8 `(3, H, W)`; raises InputError if it cannot be decoded."""
        name = self.names[index]
        try:
            item = self.dataset[index]
        except Exception as error:  # whatever a data set's own loader raises
            raise InputError(f"cannot decode {name} of {self.spec}: {reason(error)}") from error
        image = item[0] if isinstance(item, tuple) else item
        if not isinstance(image, Image.Image):
            raise InputError(f"expected {self.spec} to give images, got {type(image).__name__}")
        return rgb(image)

    def labels(self, indices: Sequence[int]) -> Labels | None:
        """The data set's own labels; if it has no list of them, the images are decoded to get them."""
        # Torchvision's data sets have no common attribute for labels.
        lists: list[Any] = [getattr(self.dataset, name, None) for name in ("targets", "labels", "_labels")]
        numbers = next((one for one in lists if hasattr(one, "__len__") and len(one) == len(self)), None)
        try:
            found = [self.dataset[i][1] if numbers is None else numbers[i] for i in indices]
        except Exception as error:  # whatever a data set's own loader raises
            raise InputError(f"cannot read the classes of {self.spec}: {reason(error)}") from error
        return by_number(found, getattr(self.dataset, "classes", None))

    def content(self, index: int) -> bytes:
        """The pixels, after the shape: torchvision's data sets give decoded images."""
        image = self.read(index)
        return f"{tuple(image.shape)}".encode() + image.numpy().tobytes()


def open_public(spec: str, root: Path, *, download: bool) -> PublicSource:
    """Open a torchvision data set: `torchvision:NAME[:SPLIT]`, by default the test split.

    Args:
        spec: for example "torchvision:CIFAR10:test".
        root: the folder where torchvision keeps its data sets.
        download: whether to download missing files.

    Raises:
        InputError: if the data set or split does not exist, is missing from `root`, or the download fails.

    >>> source = open_public("torchvision:FakeData", Path("data"), download=False)
    >>> source.names[12], source.read(12).shape
    ('fakedata/00012', torch.Size([3, 224, 224]))
    """
    name, _, split = spec.removeprefix(PREFIX).partition(":")
    kind = _dataset_class(name)
    parameters = _parameters(kind)
    options: dict[str, Any] = _split_options(name, split, parameters)
    if "root" in parameters:
        options["root"] = root
    if "download" in parameters:
        options["download"] = download
    try:
        dataset = kind(**options)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"cannot open {spec}: {reason(error)}") from error
    except Exception as error:  # each data set reports missing files in its own way
        if download:
            raise InputError(
                f"downloading {spec} to {root} failed: {reason(error)}; check the network, or copy the files there"
            ) from error
        raise InputError(f"{spec} was not found in {root} ({reason(error)}); pass --download or --data-root") from error
    return PublicSource(spec, tuple(numbered(name.lower(), len(dataset))), dataset)


def _dataset_class(name: str) -> Any:
    from torchvision import datasets

    known = {key: getattr(datasets, key) for key in datasets.__all__ if key != "VisionDataset"}
    if name in known:
        return known[name]
    lower = {key.lower(): key for key in known}
    near = [lower[key] for key in difflib.get_close_matches(name.lower(), lower)]
    hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision.datasets for the names"
    raise InputError(f"expected a torchvision data set, got {name!r}; {hint}")


def _parameters(kind: type) -> set[str]:
    """The parameters of the constructor, including those of its parents if it passes **kwargs on."""
    names: set[str] = set()
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        found = inspect.signature(vars(parent)["__init__"]).parameters
        names |= found.keys()
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found.values()):
            break
    return names


def _split_options(name: str, split: str, parameters: set[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "split" in parameters:
        options["split"] = split or "test"
    elif "train" in parameters and split not in ("", "train", "test"):
        raise InputError(f"expected split train or test for {name}, got {split!r}")
    elif "train" not in parameters and split:
        raise InputError(f"expected {PREFIX}{name} alone, got split {split!r}; this data set has no splits")
    if "train" in parameters:
        options["train"] = split == "train"
    return options
