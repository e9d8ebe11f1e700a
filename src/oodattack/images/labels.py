"""Class labels of images, from their folders or from a data set."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Labels:
    """The classes of some of a source's images.

    Attributes:
        names: the name of each image's class; a class without a name is named by its number.
        classes: all class names, in the order of their numbers; None if classes only have numbers.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...] | None


def by_folder(names: Sequence[str], indices: Iterable[int]) -> Labels:
    """Take the name of each image's folder as its class; classes are sorted.

    >>> by_folder(["a/dog/1.png", "b/cat/1.png", "b/dog/2.png"], [0, 2])
    Labels(names=('dog', 'dog'), classes=('cat', 'dog'))
    """
    folders = [PurePath(name).parent.name for name in names]
    return Labels(tuple(folders[i] for i in indices), tuple(sorted(set(folders))))


def by_number(numbers: Iterable[Any], classes: Sequence[Any] | None = None) -> Labels | None:
    """Labels from class numbers, counted from 0; None if the values are not class numbers.

    Args:
        numbers: the class number of each image, as integers of any type.
        classes: the class names, if known; a class with several names may give them as a tuple. If two classes share
            a name, the names are ignored.

    >>> by_number([1, 0], ["cat", "dog"])
    Labels(names=('dog', 'cat'), classes=('cat', 'dog'))
    >>> by_number([12, 0])
    Labels(names=('12', '0'), classes=None)
    >>> by_number([0.5]), by_number([None]), by_number([-1])
    (None, None, None)
    """
    try:
        whole = [operator.index(number) for number in numbers]
    except TypeError:
        return None
    if min(whole, default=0) < 0:
        return None
    known = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes or ()]
    if len(known) <= max(whole, default=0) or len(set(known)) < len(known):
        return Labels(tuple(map(str, whole)), None)
    return Labels(tuple(known[n] for n in whole), tuple(known))
