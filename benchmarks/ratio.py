"""How many times closer one method is than another, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOOR = (
    1e-4  # in per cent: a relative error of 1e-6, which is what float32 leaves of a latent; smaller errors are noise
)
RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A geometric mean with its 95 % interval.

    >>> print(Ratio(12.345, 10, 15))
    12.3 (10–15)
    """

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g}–{self.high:.3g})"


def log_ratios(others: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(B,) logarithms of the ratios of MAPEs (B,) in per cent, each counted as at least `FLOOR`."""
    return np.asarray(np.log(np.maximum(others, FLOOR) / np.maximum(ours, FLOOR)))


def paired_ratio(others: np.ndarray, ours: np.ndarray) -> Ratio:
    """The geometric mean of the ratios of MAPEs (B,) in per cent; the images are resampled for the interval.

    >>> print(paired_ratio(np.array([4.0, 1.0]), np.array([2.0, 0.5])))
    2 (2–2)
    """
    return equal_weights([log_ratios(others, ours)])


def equal_weights(groups: Sequence[np.ndarray]) -> Ratio:
    """The geometric mean over groups of log ratios, each with the same weight, resampled within each group.

    >>> print(equal_weights([np.log([2.0, 2.0, 2.0]), np.log([8.0])]))
    4 (4–4)
    """
    random = np.random.default_rng(0)
    means = [random.choice(logs, (RESAMPLES, len(logs))).mean(1) for logs in groups]
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    return Ratio(*(float(np.exp(value)) for value in (np.mean([logs.mean() for logs in groups]), low, high)))
