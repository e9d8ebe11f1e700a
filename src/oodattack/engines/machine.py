"""The machine: what is recorded about it beside results, and how its computations are kept deterministic."""

import platform
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from oodattack._version import __version__


def exact() -> AbstractContextManager[None]:
    """Make cuDNN's convolutions use full float32 and deterministic algorithms; other devices are unaffected.

    >>> with exact():
    ...     torch.backends.cudnn.deterministic
    True
    """
    exactly: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    return exactly


def machine(device: torch.device) -> dict[str, Any]:
    """What each shard records about the machine: if it differs, results may differ in their last digits.

    >>> sorted(machine(torch.device("cpu")))
    ['cpu', 'device', 'device_model', 'threads', 'torch']
    """
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "device_model": device_model(device),
        "threads": torch.get_num_threads(),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What the header of a run or audit records: the machine, and the versions of the software.

    >>> sorted(environment(torch.device("cpu")))
    ['cpu', 'device', 'device_model', 'oodattack', 'platform', 'python', 'threads', 'torch']
    """
    return {
        "oodattack": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        **machine(device),
    }


def device_model(device: torch.device) -> str:
    """The manufacturer's name of a GPU or CPU, for instance ``NVIDIA H100 PCIe``.

    >>> device_model(torch.device("cpu")) != ""
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_model() or platform.processor() or platform.machine() or "unknown"


def _cpu_model() -> str:
    """The CPU's model on Linux, where `platform.processor` does not report it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
