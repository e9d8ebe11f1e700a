"""`plain`: projected gradient descent without memory, the usual baseline."""

from oodattack.core.methods.method import Method


class Plain(Method):
    """All of `Method` as it is: from the start itself, alpha = eps / 20, the best image kept."""
