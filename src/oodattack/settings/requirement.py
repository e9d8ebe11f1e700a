"""What continuous integration requires of an audit: ``KNN:auroc[mnist]>=0.7@linf:2/255``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from oodattack.core.errors import InputError
from oodattack.settings.ball import NORM_NAMES
from oodattack.settings.checks import distinct, one_of
from oodattack.settings.parse import parse_number

Figure = Literal["auroc", "pass"]
GRAMMAR = "[DETECTOR:]auroc[SET]>=NUMBER@NORM:EPS or [DETECTOR:]pass[SET]<=NUMBER@NORM:EPS"
EXAMPLE = "'auroc>=0.7@linf:2/255' or 'KNN:pass[mnist]<=0.2@l2:0.5'"
_SENSE = {"auroc": ">=", "pass": "<="}  # the only sense in which each figure is good for a detector
_PATTERN = re.compile(
    r"(?:(?P<detector>[\w.+-]+):)?(?P<figure>\w+)(?:\[(?P<starts>[^\]]+)\])?\s*(?P<sense>[<>]=?|==?)"
    r"(?P<bound>[^@]+)@(?P<norm>\w+):(?P<eps>[^:]+)"
)


@dataclass(frozen=True)
class Requirement:
    """A bound on a figure of an audit under attack.

    Attributes:
        text: the requirement as given.
        detector: name of the detector; None for all.
        figure: "auroc", which must not be below the bound; or "pass", which must not exceed it: the share of attacked
            images that pass, of those whose starts were rejected, at the threshold that accepts 95 % of in-distribution
            images.
        starts: name of the set of starts; None for all.
        bound: from 0 to 1.
        norm: the norm of the ball, as in settings.
        eps: its radius, in pixels of [0, 1].
    """

    text: str
    detector: str | None
    figure: Figure
    starts: str | None
    bound: float
    norm: str
    eps: float


def parse_requirement(text: str) -> Requirement:
    """Parse ``[DETECTOR:]auroc[SET]>=NUMBER@NORM:EPS`` or ``[DETECTOR:]pass[SET]<=NUMBER@NORM:EPS``.

    ``DETECTOR:`` and ``[SET]`` may be omitted, for all detectors and all sets of starts; numbers may be fractions.

    Raises:
        InputError: for anything else.

    >>> found = parse_requirement("KNN:auroc[mnist]>=0.7@linf:2/255")
    >>> found.detector, found.figure, found.starts, found.bound, found.norm, found.eps == 2 / 255
    ('KNN', 'auroc', 'mnist', 0.7, 'linf', True)
    >>> found = parse_requirement("pass<=0.2@l2:5")
    >>> found.detector, found.figure, found.starts
    (None, 'pass', None)
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is None:
        raise InputError(f"expected a requirement as {GRAMMAR}, got {text!r}; for example {EXAMPLE}")
    figure, norm = found["figure"], found["norm"]
    one_of("the figure of a requirement", figure, list(_SENSE))
    if found["sense"] != _SENSE[figure]:
        raise InputError(f"expected {figure}{_SENSE[figure]}NUMBER, got {text!r}; only this bound can be required")
    one_of("the norm of a requirement", norm, list(NORM_NAMES))
    bound = parse_number("the bound of a requirement", found["bound"].strip())
    if not 0 <= bound <= 1:
        raise InputError(f"expected a bound from 0 to 1, got {bound:g} in {text!r}")
    eps = parse_number("eps of a requirement", found["eps"].strip())
    kind: Figure = "auroc" if figure == "auroc" else "pass"
    return Requirement(text.strip(), found["detector"], kind, found["starts"], bound, norm, eps)


def check_requirements(name: str, texts: Sequence[Any]) -> None:
    """Check that every requirement can be parsed, and that none is given twice.

    >>> check_requirements("require", ["auroc>=0.7@l2:5"])
    """
    for text in texts:
        parse_requirement(text)
    distinct(name, texts)


def check_measured(requirement: Requirement, norm: str, radii: Sequence[float]) -> None:
    """Check that an audit in balls of these radii measures what is required.

    Raises:
        InputError: if it does not.

    >>> check_measured(parse_requirement("auroc>=0.7@l2:5"), "l2", [1.0, 5.0])
    >>> check_measured(parse_requirement("auroc>=0.7@l2:5"), "l2", [1.0])
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected 'auroc>=0.7@l2:5' at an eps of the audit (1), got 5; add it to --eps
    """
    if requirement.norm != norm:
        raise InputError(
            f"expected {requirement.text!r} in the norm of the audit, {norm}, got {requirement.norm}; audit in one norm"
            " at a time"
        )
    if requirement.eps not in radii:
        measured = ", ".join(f"{eps:.6g}" for eps in radii)
        raise InputError(
            f"expected {requirement.text!r} at an eps of the audit ({measured}), got {requirement.eps:.6g}; add it to"
            " --eps"
        )
