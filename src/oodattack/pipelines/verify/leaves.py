"""The numbers and texts in a JSON value, with where they are."""

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every number, text and null in a JSON value, with its path.

    >>> [(dotted(path), leaf) for path, leaf in leaves({"radii": [{"eps": 5.0}, {"eps": "inf"}]})]
    [('radii.0.eps', 5.0), ('radii.1.eps', 'inf')]
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))
    else:
        yield path, value


def dotted(path: Path) -> str:
    """A path as text."""
    return ".".join(map(str, path))
