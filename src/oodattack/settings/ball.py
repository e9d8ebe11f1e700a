"""The eps-ball in settings: names of norms, and a check of the radii."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from oodattack.core.errors import InputError
from oodattack.settings.checks import some_distinct

NormName = Literal["l1", "l2", "linf"]
NORMS: Mapping[str, float] = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
NORM_NAMES: Mapping[str, str] = {"l1": "L1", "l2": "L2", "linf": "Linf"}


def check_ball(norm: str, radii: Sequence[float]) -> None:
    """Check the radii of balls in a norm.

    Args:
        norm: a key of NORMS.
        radii: eps, in pixels of [0, 1].

    Raises:
        InputError: if no radius is given, or one is given twice, is negative, or is in 8-bit levels.

    >>> check_ball("l2", (1.0, 5.0))
    """
    some_distinct("eps", radii)
    for eps in radii:
        if not eps >= 0:
            raise InputError(f"expected eps >= 0, got {eps:g}")
        if norm == "linf" and 1 < eps < math.inf:
            raise InputError(
                f"expected eps in [0, 1] for linf, got {eps:g}: pixels are in [0, 1]; give {eps:g}/255 if you"
                " mean 8-bit levels, or inf for no bound"
            )
