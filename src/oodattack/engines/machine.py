"""The machine: what of it is written down beside results, and how it is kept from changing them."""

import platform
import sys
from contextlib import AbstractContextManager
from typing import Any

import torch

from oodattack._version import __version__


def exact() -> AbstractContextManager[None]:
    """Full float32 in cuDNN's convolutions, by algorithms that give the same every time; nothing elsewhere."""
    exactly: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    return exactly


def environment(device: torch.device) -> dict[str, Any]:
    """What else may change the last digits of a result.

    >>> sorted(environment(torch.device("cpu")))
    ['cpu', 'device', 'oodattack', 'platform', 'python', 'threads', 'torch']
    """
    return {
        "oodattack": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
