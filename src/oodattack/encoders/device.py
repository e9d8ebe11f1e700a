"""Choose the device that an encoder runs on."""

import torch

from oodattack.core.errors import InputError
from oodattack.encoders.messages import reason


def pick_device(device: str | None = None) -> torch.device:
    """Return the named device, or the best available one: cuda, else mps, else cpu.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`, ..., or None for the best available one.

    Returns:
        A device on which a tensor was successfully created and read back.

    Raises:
        InputError: if the device is unknown or cannot be used on this machine.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.device(device)
        # A valid name does not imply that the hardware exists; creating a tensor does.
        torch.zeros(1, device=picked).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"expected a device available on this machine (cpu, cuda, cuda:1, mps), got {device!r} ({reason(error)})"
        ) from error
    return picked
