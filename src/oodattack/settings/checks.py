"""Checks of single settings. Each takes the name and the value, and raises an InputError that states both."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from oodattack.core.errors import InputError, did_you_mean


def at_least(least: int) -> Callable[[str, int], None]:
    """Make a check that a number is not below ``least``.

    >>> at_least(1)("steps", 0)
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected steps >= 1, got 0
    """

    def check(name: str, value: int) -> None:
        if value < least:
            raise InputError(f"expected {name} >= {least}, got {value}")

    return check


def positive(name: str, value: float) -> None:
    """Check that a number is positive and finite.

    >>> positive("step_size", 0.1)
    """
    if not 0 < value < math.inf:
        raise InputError(f"expected {name} to be positive and finite, got {value:g}")


def seed_range(name: str, value: int) -> None:
    """Check that a seed fits a signed 64-bit integer, as the shards store it.

    >>> seed_range("seed", 0)
    """
    at_least(0)(name, value)
    if value >= 2**63:
        raise InputError(f"expected {name} below 2^63, got {value}")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Check that a value is one of those allowed; the error suggests the nearest.

    >>> one_of("norm", "l2", ["l1", "l2"])
    """
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise InputError(f"expected {name} to be one of {', '.join(allowed)}, got {value!r}{hint}")


def distinct(name: str, values: Sequence[Any]) -> None:
    """Check that no value is given twice.

    >>> distinct("budget", [10, 30])
    """
    if len(set(values)) != len(values):
        raise InputError(f"expected each {name} once, got {', '.join(map(str, values))}")


def some_distinct(name: str, values: Sequence[Any]) -> None:
    """Check that there is at least one value, and none twice.

    >>> some_distinct("eps", [1, 5])
    """
    if not values:
        raise InputError(f"expected at least one {name}, got none")
    distinct(name, values)
