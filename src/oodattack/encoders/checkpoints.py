"""Read model files; code in a file runs only if the user trusts the file."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.encoders.messages import reason


def existing(path: str) -> Path:
    """Check that the path is a file.

    Raises:
        InputError: if it is not.
    """
    if not Path(path).is_file():
        raise InputError(f"expected a model file, got {path!r}: no such file")
    return Path(path)


def is_torchscript(path: Path) -> bool:
    """Whether the file is an intact TorchScript archive, regardless of its suffix."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def load_file(path: Path, *, trust: bool) -> object:
    """Load a checkpoint file on the CPU: a state dict or, with `trust`, any pickled object.

    Args:
        path: `.safetensors`, or any file written by `torch.save`.
        trust: whether code in the file may run.

    Returns:
        The object, unwrapped from an enclosing `{"state_dict": ...}` or `{"model": ...}`.

    Raises:
        InputError: if the file is damaged, or contains code and is not trusted.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors

        try:
            return load_safetensors(path)
        except SafetensorError as error:
            raise InputError(f"expected a safetensors file, got {str(path)!r}: {reason(error)}") from error
    content = _unpickle(path, trust=trust)
    if isinstance(content, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), (Mapping, nn.Module)):
                return content[key]
    return content


def load_state(path: str, *, trust: bool = False) -> dict[str, Tensor]:
    """Load the state dict in a file and strip a `module.` prefix that all names share (DataParallel).

    Args:
        path: see `load_file`.
        trust: whether code in the file may run.

    Raises:
        InputError: if the file does not exist or contains no state dict.
    """
    state = load_file(existing(path), trust=trust)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        kind = f"the keys {_some(list(state))}" if isinstance(state, Mapping) else type(state).__name__
        raise InputError(f"expected a state dict (names to tensors) in {path!r}, got {kind}")
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in state.items()}


def put_weights(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Copy tensors into the model by name; `path` appears in the error message.

    Raises:
        InputError: if names or shapes differ; the message lists up to three of each.

    >>> put_weights(nn.Linear(2, 1), {"weight": torch.zeros(1, 2)}, "a.pth")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected the weights in 'a.pth' to fit Linear, got missing: bias
    """
    own = model.state_dict()
    problems = {
        # Checkpoints from before torch 0.4.1 lack these counters, which evaluation does not use.
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in own],
        "of a different shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        got = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InputError(f"expected the weights in {path!r} to fit {type(model).__name__}, got {got}")
    model.load_state_dict(state, strict=False)


def _unpickle(path: Path, *, trust: bool) -> object:
    with warnings.catch_warnings():
        # torch warns about pickle protocols that it does not write; such a file either loads or raises below.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        try:
            return torch.load(path, map_location="cpu", weights_only=not trust)
        except pickle.UnpicklingError as error:
            code = re.search(r"GLOBAL (\S+)", str(error))
            if code is None and trust:
                raise _damaged(path, error) from error
            what = f"the Python object {code[1]}" if code else "more than tensors"
            raise InputError(
                f"expected only tensors in {str(path)!r}, got {what}, and loading it can execute code; "
                "save model.state_dict() instead, or pass --trust (trust=True) if you trust the file"
            ) from error
        except Exception as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"expected {str(path)!r} to be a file written by torch.save, got {reason(error)} "
        "(damaged, or its classes cannot be imported here)"
    )


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(str, names[:3])) + more
