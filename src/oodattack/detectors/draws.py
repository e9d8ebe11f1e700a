"""Reproducible draws for random scores."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from oodattack.core.pixels import quantize


@contextmanager
def seeded_by(image: Tensor) -> Iterator[None]:
    """Seed torch's global generator by the 8-bit pixels of an image, and restore its state at the end.

    Every image gets its own draws, and the same ones in every batch, run and process. The seeds have 32 bits; an attack
    draws its own from 62 (`oodattack.attacks.follow`).

    >>> image = torch.rand(1, 3, 4, 4)
    >>> with seeded_by(image):
    ...     once = torch.rand(1)
    >>> with seeded_by(image):
    ...     again = torch.rand(1)
    >>> torch.equal(once, again)
    True
    """
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(quantize(image).cpu().numpy().tobytes()))
        yield
