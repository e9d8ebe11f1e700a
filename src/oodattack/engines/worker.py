"""The encoder that settings name, loaded by the process that plans the work, and again in each worker of an engine."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from oodattack.core.errors import InputError
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines.memory import keep_freed_memory


class EncoderSettings(Protocol):
    """The settings that determine an encoder; see `oodattack.encoders.load_encoder`."""

    @property
    def encoder(self) -> str:
        """The encoder."""

    @property
    def device(self) -> str | None:
        """Compute device; None for the best available."""

    @property
    def trust(self) -> bool:
        """Whether the encoder's files may execute code."""

    @property
    def pipeline(self) -> str | None:
        """What happens to an image file before the network."""

    @property
    def native_size(self) -> str | None:
        """Size of the images that enter the pipeline."""


def open_encoder(settings: EncoderSettings) -> Encoder:
    """Load the encoder of a run or an audit.

    Raises:
        InputError: if it cannot be loaded.

    >>> from pathlib import Path
    >>> from oodattack.settings.attack import AttackSettings
    >>> open_encoder(AttackSettings(encoder="embedded", images="photos", start=("noise",), out=Path("run"))).latent_dim
    1280
    """
    return load_encoder(
        settings.encoder,
        device=settings.device,
        trust=settings.trust,
        pipeline=settings.pipeline,
        native_size=settings.native_size,
    )


def open_encoder_in_worker(settings: EncoderSettings, header: Mapping[str, Any]) -> Encoder:
    """Load the encoder in a process other than the one that planned the work, and compute there as the header records.

    For the whole process, it sets the number of torch threads to that of the header, because results with other numbers
    differ in the last digits, and makes glibc keep freed memory (`keep_freed_memory`).

    Args:
        settings: the settings of the run or the audit.
        header: of the run or the audit: ``environment.threads`` is the number of threads, ``inputs.encoder`` the digest
            of the encoder.

    Raises:
        InputError: if the encoder cannot be loaded, or is a different one.

    >>> from pathlib import Path
    >>> from oodattack.settings.attack import AttackSettings
    >>> settings = AttackSettings(encoder="embedded", images="photos", start=("noise",), device="cpu", out=Path("run"))
    >>> encoder = open_encoder(settings)
    >>> header = {"environment": {"threads": torch.get_num_threads()}, "inputs": {"encoder": encoder.digest()}}
    >>> open_encoder_in_worker(settings, header).digest() == encoder.digest()
    True
    """
    torch.set_num_threads(header["environment"]["threads"])
    keep_freed_memory()
    encoder = open_encoder(settings)
    if encoder.digest() != header["inputs"]["encoder"]:
        raise InputError(
            f"expected the same encoder {settings.encoder} in every process, got different weights in a worker; load"
            " the weights from a file instead of using random ones"
        )
    return encoder
