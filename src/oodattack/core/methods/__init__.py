"""The attack methods: `paper` as published, `plain` gradient descent, and our own `fast`."""

from oodattack.core.errors import InputError, did_you_mean
from oodattack.core.methods.fast.fast import Fast
from oodattack.core.methods.method import Method
from oodattack.core.methods.paper import Paper
from oodattack.core.methods.plain import Plain

__all__ = ["Fast", "Method", "Paper", "Plain", "get_method"]


def get_method(method: str | type[Method]) -> type[Method]:
    """The method class with that name; a class is returned as it is.

    Raises:
        InputError: for an unknown name.
        TypeError: for anything else.

    >>> get_method("paper").__name__
    'Paper'
    """
    if isinstance(method, type) and issubclass(method, Method):
        return method
    methods: dict[str, type[Method]] = {"fast": Fast, "paper": Paper, "plain": Plain}
    if not isinstance(method, str):
        raise TypeError(f"expected method as 'fast', 'paper', 'plain' or a subclass of Method, got {method!r}")
    if method not in methods:
        hint = did_you_mean(method, methods)
        raise InputError(f"expected method 'fast', 'paper' or 'plain', got {method!r}{hint}")
    return methods[method]
