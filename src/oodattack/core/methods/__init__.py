"""The attack methods: `paper` as published, `plain` gradient descent, and `fast`."""

from oodattack.core.methods.methods import Method, get_method

__all__ = ["Method", "get_method"]
