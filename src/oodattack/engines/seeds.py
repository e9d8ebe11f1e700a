"""Seeds that depend on the sample alone, not on its place in a job or on the worker that computes it."""

import hashlib


def sample_seed(*parts: object) -> int:
    """A seed in [0, 2^63) derived from whatever identifies a sample, such as the job's seed and the image's name.

    >>> sample_seed(0, "a.png") != sample_seed(0, "b.png")
    True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
