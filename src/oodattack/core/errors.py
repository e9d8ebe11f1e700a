"""Exceptions for errors that a user can correct, and the hint that their messages share."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a file, an option, a model or a value. The message names the remedy.

    The command line prints only the message, without a traceback.

    >>> raise InputError("expected eps >= 0, got -1.0")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected eps >= 0, got -1.0
    """


class WriteError(InputError):
    """A file that cannot be written (no space, no permission): work that continues after other errors stops here.

    >>> raise WriteError("cannot write a.png: no space left on device")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.WriteError: cannot write a.png: no space left on device
    """


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """The end of a message about a misspelt name; empty if no name is close to it.

    >>> did_you_mean("fsat", ["fast", "paper"]), did_you_mean("xyz", ["fast"])
    ("; did you mean 'fast'?", '')
    """
    near = difflib.get_close_matches(wrong, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
