"""What every training begins with: an accelerator on the requested device, and a TensorBoard log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from oodattack.core.errors import InputError
from oodattack.encoders import pick_device


def make_accelerator(device: str | None, *, mixed_precision: bool = False) -> Accelerator:
    """Make an accelerator on the requested device.

    Args:
        device: the device; None picks one.
        mixed_precision: whether to compute in bfloat16 where the device is a GPU that supports it.

    Raises:
        InputError: if the device is not available, or accelerate is bound to another one.
    """
    wanted = pick_device(device)
    reduced = mixed_precision and wanted.type == "cuda"
    accelerator = Accelerator(cpu=wanted.type == "cpu", mixed_precision="bf16" if reduced else "no")
    differs = accelerator.device.type != wanted.type or (wanted.index or 0) != (accelerator.device.index or 0)
    if device is not None and differs:
        raise InputError(f"expected to train on {device}, got {accelerator.device}, which accelerate is bound to")
    return accelerator


def open_log(folder: Path | None) -> None:
    """Check that TensorBoard event files can be written, before a training begins.

    Raises:
        InputError: if the package tensorboard is missing.
    """
    if folder is not None:
        _writer(folder).close()


def log(folder: Path | None, epoch: int, values: Mapping[str, float]) -> None:
    """Write values of an epoch as TensorBoard scalars; without a folder, do nothing."""
    if folder is None:
        return
    with _writer(folder) as writer:
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
    return SummaryWriter(folder)
