"""Errors as text for tables."""

from oodattack.core.errors import InputError


def one_line(error: BaseException) -> str:
    r"""An error as one line of at most 300 characters.

    >>> one_line(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else type(error).__name__
    return ": ".join(filter(None, (kind, text)))[:300]
