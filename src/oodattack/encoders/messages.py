"""Helpers for error messages."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(wrong: str, names: Iterable[str], count: int = 5) -> list[str]:
    """The `count` names most similar to `wrong`, most similar first.

    >>> nearest("resnet81", ["vgg11", "resnet18", "resnet50"], count=2)
    ['resnet18', 'resnet50']
    """
    return sorted(names, key=lambda name: -SequenceMatcher(None, wrong, name).ratio())[:count]


def reason(error: Exception) -> str:
    """An error's type and the first sentence of its message, to quote in an InputError.

    >>> reason(RuntimeError("Shapes differ. See the manual.")), reason(EOFError())
    ('RuntimeError: Shapes differ', 'EOFError')
    """
    sentence = re.split(r"\n|\. ", str(error).strip())[0]
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__
