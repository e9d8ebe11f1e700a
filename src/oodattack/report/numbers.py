"""Numbers as text, for every table, figure and page: formatted here and nowhere else."""

import math
from decimal import Decimal

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def eps_label(eps: float) -> str:
    """Format an eps; multiples of 1/255 below 1 that are not short decimals are written as n/255.

    >>> eps_label(8 / 255), eps_label(5.0), eps_label(0.2)
    ('8/255', '5', '0.2')
    """
    levels = eps * 255
    if 0 < eps < 1 and float(f"{eps:.4g}") != eps and math.isclose(levels, round(levels), abs_tol=1e-6):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def ball_label(norm: str, eps: float) -> str:
    """A ball in words.

    >>> ball_label("L2", 5.0), ball_label("L2", math.inf)
    ('within L2 5', 'without a bound on the change')
    """
    return "without a bound on the change" if math.isinf(eps) else f"within {norm} {eps_label(eps)}"


def count_label(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the plural unless there is one; without ``plural``, the plural ends in -s.

    >>> count_label(1, "start"), count_label(2000, "start"), count_label(0, "class", "classes")
    ('1 start', '2,000 starts', '0 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def percent_label(percent: float) -> str:
    """Format a percentage with three significant digits.

    >>> percent_label(0.01234), percent_label(12.0), percent_label(0)
    ('0.0123 %', '12 %', '0 %')
    """
    return f"{percent:.3g} %"


def significant(value: float, digits: int = 3) -> str:
    """Format a number with so many significant digits, as plain decimals unless it is tiny or huge.

    >>> significant(0.000123456), significant(1234567.0), significant(100.0), significant(1.23e-9)
    ('0.000123', '1,230,000', '100', '1.23 × 10⁻⁹')
    >>> significant(float("inf")), significant(float("nan"))
    ('infinite', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    rounded = f"{value:.{digits}g}"
    if value and not 1e-6 <= abs(value) < 1e9:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")
    return f"{Decimal(rounded):,f}".replace("-", "−")


def share(fraction: float) -> str:
    """Format a fraction as a percentage with three significant digits, which no line break separates from its sign.

    >>> [share(fraction).split() for fraction in (0.00000123, 0.97, float("nan"))]
    [['0.000123', '%'], ['97', '%'], ['undefined']]
    """
    text = significant(100 * fraction)
    return f"{text}\N{NO-BREAK SPACE}%" if math.isfinite(fraction) else text


def count(value: int) -> str:
    """Format a whole number, with its thousands separated.

    >>> count(12345)
    '12,345'
    """
    return f"{value:,}"


def fixed(value: float, decimals: int = 3) -> str:
    """Format a number of known range, such as an AUROC, with so many decimals.

    >>> fixed(0.91268), fixed(0.00037, 2), fixed(-0.25, 2)
    ('0.913', '0.00', '−0.25')
    """
    return f"{value:.{decimals}f}".replace("-", "−")
