"""`plain`: projected gradient descent without momentum, the usual baseline."""

from oodattack.core.methods.method import Method


class Plain(Method):
    """The defaults of `Method`: it starts at the start itself, uses alpha = eps / 20, and keeps the best image."""
