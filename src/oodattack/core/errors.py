"""Exceptions for errors that a user can correct, and the "did you mean" hint that their messages share."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid input: a file, an option, a model or a value. The message names the remedy.

    The command line prints only the message, without a traceback.

    >>> raise InputError("expected eps >= 0, got -1.0")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected eps >= 0, got -1.0
    """


class WriteError(InputError):
    """A file cannot be written (no space, no permission). Work that would skip a bad file and continue stops here.

    >>> raise WriteError("cannot write a.png: no space left on device")
    Traceback (most recent call last):
        ...
    oodattack.core.errors.WriteError: cannot write a.png: no space left on device
    """


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """The hint that ends a message about a misspelt name; empty if no known name is close to it.

    >>> did_you_mean("fsat", ["fast", "paper"]), did_you_mean("xyz", ["fast"])
    ("; did you mean 'fast'?", '')
    """
    near = difflib.get_close_matches(wrong, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
