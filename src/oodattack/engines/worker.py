"""The encoder of a run or an audit, loaded again in each worker of an engine."""

from collections.abc import Mapping
from typing import Any

import torch

from oodattack.core.errors import InputError
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines.memory import keep_freed_memory


def load_in_worker(
    spec: str,
    header: Mapping[str, Any],
    *,
    device: str | None,
    trust: bool,
    pipeline: str | None = None,
    native_size: str | None = None,
) -> Encoder:
    """Load an encoder in a process other than the one that planned the work, and compute there as the header records.

    For the whole process, it sets the number of torch threads to that of the header, because results with other numbers
    differ in the last digits, and makes glibc keep freed memory (`keep_freed_memory`).

    Args:
        spec: the encoder.
        header: of the run or the audit: ``environment.threads`` is the number of threads, ``inputs.encoder`` the digest
            of the encoder.
        device: compute device; None for the best available.
        trust: whether the encoder's files may execute code.
        pipeline: what happens to an image file before the network.
        native_size: size of the images that enter the pipeline.

    Raises:
        InputError: if the encoder cannot be loaded, or is a different one.

    >>> encoder = load_encoder("embedded", device="cpu")
    >>> header = {"environment": {"threads": torch.get_num_threads()}, "inputs": {"encoder": encoder.digest()}}
    >>> load_in_worker("embedded", header, device="cpu", trust=False).digest() == encoder.digest()
    True
    """
    torch.set_num_threads(header["environment"]["threads"])
    keep_freed_memory()
    encoder = load_encoder(spec, device=device, trust=trust, pipeline=pipeline, native_size=native_size)
    if encoder.digest() != header["inputs"]["encoder"]:
        raise InputError(
            f"expected the same encoder {spec} in every process, got different weights in a worker; load the weights"
            " from a file instead of using random ones"
        )
    return encoder
