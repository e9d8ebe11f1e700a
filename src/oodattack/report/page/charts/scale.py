"""From numbers to places along an axis, and round numbers to mark there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """An axis: ``low`` is drawn at ``start`` and ``high`` at ``stop``, in units of the drawing.

    >>> Scale(0, 10, 100, 200)(5), Scale(1, 100, 0, 200, log=True)(10)
    (150.0, 100.0)
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values outside the axis are drawn at its end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.stop - self.start)

    def places(self, values: np.ndarray) -> np.ndarray:
        """The places of many values on a linear axis.

        >>> Scale(0, 10, 100, 200).places(np.array([5.0, 12.0])).tolist()
        [150.0, 200.0]
        """
        part = (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)
        return np.asarray(self.start + part * (self.stop - self.start))

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the axis, about ``most`` of them; powers of ten on a logarithmic axis.

        >>> Scale(0, 10, 0, 1).ticks(), Scale(0.001, 5, 0, 1, log=True).ticks()
        ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.001, 0.01, 0.1, 1.0])
        """
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last > first:
                return [float(f"1e{power}") for power in range(first, last + 1, -(-(last - first + 1) // most))]
            return [self.low, self.high]
        step = round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def fit(values: Iterable[float], start: float, stop: float, *, zero: bool = False, log: bool | None = None) -> Scale:
    """An axis for some values: logarithmic, unless told otherwise, if the positive ones span a decade or more.

    Args:
        values: what is drawn; what is not finite is ignored.
        start: the place of the lowest value.
        stop: the place of the highest value.
        zero: whether a linear axis begins at 0.
        log: whether the axis is logarithmic; by default, the values decide.

    >>> fit([0.1, 5.0], 0, 100).log, fit([2.0, 5.0], 0, 100, zero=True).low
    (True, 0.0)
    """
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    if log is None:
        log = bool(positive) and min(finite) >= 0 and max(positive) >= 10 * min(positive)
    if log and positive:
        low, high = min(positive), max(positive)
        return Scale(low, high if high > low else 10 * low, start, stop, log=True)
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    return Scale(low, high if high > low else low + 1.0, start, stop)


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below ``least``, which is positive.

    >>> round_step(0.3), round_step(20)
    (0.5, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
