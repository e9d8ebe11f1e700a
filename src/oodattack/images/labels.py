"""What class an image is of: its folder, or what a data set says."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Labels:
    """The classes of some of a source's images.

    Attributes:
        names: of each image's class; a class that has a number alone has it as its name.
        classes: all names, in the order of their numbers; None where classes are numbers alone.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...] | None


def by_folder(names: Sequence[str], indices: Iterable[int]) -> Labels:
    """Classes are the folders that images are in, in sorted order.

    >>> by_folder(["a/dog/1.png", "b/cat/1.png", "b/dog/2.png"], [0, 2])
    Labels(names=('dog', 'dog'), classes=('cat', 'dog'))
    """
    folders = [PurePath(name).parent.name for name in names]
    return Labels(tuple(folders[i] for i in indices), tuple(sorted(set(folders))))


def by_number(numbers: Iterable[Any], classes: Sequence[Any] | None = None) -> Labels | None:
    """Classes that are told by their numbers, from 0; None where something else is told.

    Args:
        numbers: of each image: whole numbers of any kind.
        classes: their names, if known; several names of a class may be a tuple. Names that two classes share are of
            no use, and left out.

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
