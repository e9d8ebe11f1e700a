"""The user's own models: built by a Python function or loaded from a file."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import existing, is_torchscript, load_file, load_state, put_weights
from oodattack.encoders.messages import nearest, reason
from oodattack.encoders.source import Source
from oodattack.encoders.spec import parse_size


def from_python(target: str, weights: str | None, *, trust: bool) -> Source:
    """Build a model with `MODULE:FACTORY`, load weights from a file if given, and use the model's `input_size`.

    Raises:
        InputError: if the function does not exist, fails or does not return a module, or the weights do not fit.
    """
    factory = import_function(target)
    with here_importable():
        try:
            model = factory()
        except Exception as error:
            raise InputError(f"expected {target}() to build a model, got {reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"expected {target}() to return a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        put_weights(model, load_state(weights, trust=trust), weights)
    return Source(model, declared_size(model))


def import_function(target: str) -> Callable[..., Any]:
    """Import ``MODULE:FUNCTION``, also from the working directory.

    Raises:
        InputError: if it does not exist; the message suggests the nearest names.

    >>> import_function("math:sqrt")(4.0)
    2.0
    """
    module_name, _, name = target.rpartition(":")
    if not module_name or not name:
        raise InputError(f"expected MODULE:FACTORY, got {target!r}")
    with here_importable():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise InputError(
                f"expected the module {module_name!r} to be importable here, got {reason(error)}"
            ) from error
    function = getattr(module, name, None)
    if not callable(function):
        near = nearest(name, [name for name, value in vars(module).items() if callable(value)])
        raise InputError(f"expected a function in {module_name!r}, got {name!r}; nearest: {', '.join(near)}")
    found: Callable[..., Any] = function
    return found


def from_file(path: str, factory: str | None, *, trust: bool) -> Source:
    """Load a complete model (exported, TorchScript or pickled), or weights into the model that `factory` builds.

    Raises:
        InputError: if the file is missing or damaged, contains code and is not trusted, or needs a factory.
    """
    file = existing(path)
    exported = file.suffix == ".pt2"
    if exported or is_torchscript(file):
        if not trust:
            raise InputError(
                f"expected a file that cannot execute code, got the exported model {path!r}, which can; "
                "pass --trust (trust=True) if you trust the file"
            )
        if factory is not None:
            raise InputError(f"expected no factory= for {path!r}, which contains a complete model; remove it")
        return _from_program(file) if exported else Source(_load_torchscript(file))
    if factory is not None:
        return from_python(factory, path, trust=trust)
    # Without trust, nothing is imported from the working directory: a `safetensors.py` next to the file is code too.
    with here_importable() if trust else nullcontext():
        content = load_file(file, trust=trust)
    if not isinstance(content, nn.Module):
        raise InputError(
            f"expected a complete model in {path!r}, got {type(content).__name__} (weights only); "
            "name the function that builds the model with factory=MODULE:FACTORY"
        )
    return Source(content, declared_size(content))


def _from_program(file: Path) -> Source:
    try:
        program = torch.export.load(file)
        # Unflattening restores the layers as modules, so that they can be hooked.
        model = torch.export.unflatten(program)
    except Exception as error:
        raise InputError(
            f"expected {str(file)!r} to be a file written by torch.export.save, got {reason(error)}"
        ) from error
    example = program.example_inputs[0] if program.example_inputs else ()
    return Source(model, parse_size(example[0].shape[-2:]) if example else None)


def _load_torchscript(file: Path) -> nn.Module:
    with warnings.catch_warnings():
        # torch recommends exporting instead, but the file already exists.
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        try:
            model: nn.Module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise InputError(f"expected a TorchScript archive in {str(file)!r}, got {reason(error)}") from error
    return model


def declared_size(model: nn.Module) -> tuple[int, int] | None:
    """The input size (height, width) in a model's attribute ``input_size``; None if it has none.

    >>> declared_size(nn.Flatten()) is None
    True
    """
    size = getattr(model, "input_size", None)
    return None if size is None else parse_size(size)


@contextmanager
def here_importable() -> Iterator[None]:
    """Temporarily add the working directory to the import path."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
