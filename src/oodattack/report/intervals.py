"""95 % intervals of fractions, of their differences, and of ratios of MAPEs."""

import math
from dataclasses import dataclass

import numpy as np

MAPE_NOISE = 1e-6  # a relative error that float32 leaves of a latent; smaller MAPEs are noise
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def fraction(hits: np.ndarray) -> Interval:
    """The share of the (N,) booleans that are true, with Wilson's interval; NaN for none.

    >>> found = fraction(np.array([True] * 4))
    >>> found.value, round(found.low, 3), found.high
    (1.0, 0.51, 1.0)
    """
    count, total = int(np.count_nonzero(hits)), len(hits)
    if total == 0:
        return Interval(math.nan, math.nan, math.nan)
    middle = (count + _Z**2 / 2) / (total + _Z**2)
    half = _Z / (total + _Z**2) * math.sqrt(count * (total - count) / total + _Z**2 / 4)
    value = count / total
    return Interval(value, min(max(middle - half, 0.0), value), max(min(middle + half, 1.0), value))


def difference(first: Interval, second: Interval, correlation: float = 0.0) -> Interval:
    """The second of two fractions minus the first, with an interval from the intervals of both.

    By Newcombe's method of variance estimates recovery (Stat. Med. 17, 1998, 873-890 and 2635-2650).

    Args:
        first: a fraction with its interval.
        second: another one.
        correlation: of the two estimates; 0 if they are independent.

    >>> difference(Interval(0.25, 0.25, 0.25), Interval(0.75, 0.5, 0.875))
    Interval(value=0.5, low=0.25, high=0.625)
    """
    value = second.value - first.value
    low = value - _combined(second.value - second.low, first.high - first.value, correlation)
    high = value + _combined(second.high - second.value, first.value - first.low, correlation)
    return Interval(value, max(low, -1.0), min(high, 1.0))


def paired_difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """The share of `second` minus that of `first`, both (N,) booleans about the same images.

    Newcombe's method with a continuity correction of the correlation (number 10 of Stat. Med. 17, 1998, 2635-2650).

    >>> same = np.array([True] * 50 + [False] * 50)
    >>> paired_difference(same, same).high < difference(fraction(same), fraction(same)).high
    True
    """
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    excess = float(both * neither - only_first * only_second)
    if excess > 0:
        excess = max(excess - len(first) / 2, 0.0)
    margins = (both + only_first) * (neither + only_second) * (both + only_second) * (neither + only_first)
    return difference(fraction(first), fraction(second), excess / math.sqrt(margins) if margins else 0.0)


def ratio(first: np.ndarray, second: np.ndarray, *, paired: bool) -> Interval:
    """The geometric mean of the MAPEs `second` (M,), divided by that of `first` (N,).

    The interval is Student's for the mean of the logarithms: of the ratios of each pair, or for independent samples
    that of Welch. It is unbounded if a sample has a single value.

    Args:
        first: fractions; each counts as at least `MAPE_NOISE`, so that nothing is divided by zero or by noise.
        second: the same of other attacks.
        paired: whether both are about the same images, in the same order.

    >>> found = ratio(np.array([0.04, 0.01]), np.array([0.02, 0.005]), paired=True)
    >>> round(found.low, 6), round(found.high, 6)
    (0.5, 0.5)
    """
    logs = [np.log(np.maximum(values, MAPE_NOISE)) for values in (first, second)]
    samples = [logs[1] - logs[0]] if paired else logs
    middle = float(logs[1].mean() - logs[0].mean())
    if min(map(len, samples)) < 2:
        return Interval(math.exp(middle), 0.0, math.inf)
    half = _half_width(samples)
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _half_width(samples: list[np.ndarray]) -> float:
    """Of the interval for a mean, or for the difference of the means of two samples."""
    from scipy.special import stdtrit  # half a second, which only comparisons of runs need

    variances = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    total = sum(variances)
    if total == 0:
        return 0.0
    parts = (one**2 / (len(sample) - 1) for one, sample in zip(variances, samples, strict=True))
    freedom = total**2 / sum(parts)
    return float(stdtrit(freedom, 0.975)) * math.sqrt(total)


def _combined(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0))
