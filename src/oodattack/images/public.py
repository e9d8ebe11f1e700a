"""Public data sets, read through torchvision."""

import difflib
import inspect
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.images.dataset import DatasetSource
from oodattack.images.decode import reason
from oodattack.images.files import numbered

PREFIX = "torchvision:"


def open_public(spec: str, root: Path, *, download: bool) -> DatasetSource:
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
    return DatasetSource(spec, tuple(numbered(name.lower(), len(dataset))), dataset)


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
