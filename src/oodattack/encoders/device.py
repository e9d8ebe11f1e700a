"""Which device an encoder runs on."""

import torch

from oodattack.core.errors import InputError
from oodattack.encoders.messages import reason


def pick_device(device: str | None = None) -> torch.device:
    """The named device, or the best one here: cuda, else mps, else cpu.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`, ..., or None to choose.

    Returns:
        A device on which a tensor was made and read back.

    Raises:
        InputError: the device is unknown or cannot be used here.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.device(device)
        # A name may be well formed and its hardware absent: only a tensor tells.
        torch.zeros(1, device=picked).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"expected a device usable here (cpu, cuda, cuda:1, mps), got {device!r} ({reason(error)})"
        ) from error
    return picked
