"""Numbers of an audit's results, each shown with its place in results.json as its key."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from oodattack.report.numbers import count, eps_label, fixed, share, significant
from oodattack.report.page.elements import Shown

Part = str | int


@dataclass(frozen=True)
class Traced:
    """Results, of which a path names one number: a JSON pointer (RFC 6901) without its first slash.

    Attributes:
        results: the content of results.json.
        prefix: begins the key of each number.

    >>> traced = Traced({"detectors": [{"auroc": {"value": 0.5, "low": 0.4, "high": None}}]})
    >>> traced.auroc("detectors", 0, "auroc")
    Shown(key='results/detectors/0/auroc/value', value=0.5, text='0.500')
    >>> traced.interval("detectors", 0, "auroc").striptags()
    '0.500 (0.400–undefined)'
    """

    results: Mapping[str, Any]
    prefix: str = "results"

    def at(self, *path: Part) -> Any:
        """What stands at a path."""
        found: Any = self.results
        for part in path:
            found = found[part]
        return found

    def number(self, *path: Part, text: Callable[[float], str] = significant) -> Shown:
        """A number; null is undefined."""
        value = self.at(*path)
        key = "/".join([self.prefix, *(str(part).replace("~", "~0").replace("/", "~1") for part in path)])
        value = math.inf if value == "inf" else value
        return Shown(key, value, "undefined" if value is None else text(value))

    def auroc(self, *path: Part, decimals: int = 3) -> Shown:
        """The value of a fraction with an interval, as a decimal."""
        return self.number(*path, "value", text=lambda value: fixed(value, decimals))

    def share(self, *path: Part) -> Shown:
        """The value of a fraction with an interval, as a percentage."""
        return self.number(*path, "value", text=share)

    def interval(self, *path: Part) -> Markup:
        """A fraction and its interval, as decimals."""
        return self._interval(path, fixed)

    def share_interval(self, *path: Part) -> Markup:
        """A fraction and its interval, as percentages; a fraction of nothing is undefined."""
        return self._interval(path, share)

    def count(self, *path: Part) -> Shown:
        """A whole number."""
        return self.number(*path, text=lambda value: count(round(value)))

    def eps(self, *path: Part) -> Shown:
        """A radius."""
        return self.number(*path, text=eps_label)

    def _interval(self, path: tuple[Part, ...], text: Callable[[float], str]) -> Markup:
        value, low, high = (self.number(*path, end, text=text) for end in ("value", "low", "high"))
        if value.value is None:
            return Markup("{}").format(value)
        return Markup("{} <small>({}–{})</small>").format(value, low, high)
