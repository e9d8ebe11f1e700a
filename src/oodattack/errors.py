"""The one exception for input that a person can correct."""


class InputError(ValueError):
    """Bad input: a file, an option, a model or a value, with the remedy in the message.

    The command line prints the message alone, without a traceback.

    >>> raise InputError("expected eps >= 0, got -1.0")
    Traceback (most recent call last):
        ...
    oodattack.errors.InputError: expected eps >= 0, got -1.0
    """
