"""What a verification found."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Words = tuple[str, str]
"""What the two values of a difference are called in messages."""

MEASURED: Words = ("stored", "measured")
EXPECTED: Words = ("found", "expected")
RELATIVE = 1e-3  # by which measured values may differ from stored ones: processors round differently


@dataclass(frozen=True)
class Difference:
    """A stored value that is not what it should be.

    Attributes:
        file: path of the file, relative to the directory.
        row: the row, or None if the value does not belong to one.
        what: name of the value, for instance "SHA-256" or "mape".
        stored: the value in the file.
        measured: the value found by measuring, or what was expected.
        words: what the two values are called in messages.
    """

    file: str
    row: int | None
    what: str
    stored: Any
    measured: Any
    words: Words = MEASURED


@dataclass
class Findings:
    """Everything that a verification compared, and the differences.

    Attributes:
        path: the directory.
        noun: what it contains: "run", "audit" or "training".
        checked: how many of each kind of thing were compared.
        differences: stored values that are not what they should be.
        unchecked: what could not be checked, with the reason.
    """

    path: Path
    noun: str
    checked: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def differ(
        self, file: str, what: str, stored: Any, measured: Any, row: int | None = None, *, words: Words = MEASURED
    ) -> None:
        """Record a difference."""
        self.differences.append(Difference(file, row, what, stored, measured, words))

    def include(self, folder: str, inner: "Findings") -> None:
        """Add what was found in a folder of the directory that has hashes of its own.

        >>> outer, inner = Findings(Path("net"), "training"), Findings(Path("net/rounds"), "series of rounds")
        >>> inner.differ("000/model.safetensors", "SHA-256", "a", "b")
        >>> outer.include("rounds", inner)
        >>> outer.differences[0].file
        'rounds/000/model.safetensors'
        """
        self.checked += inner.checked
        self.differences += [replace(found, file=f"{folder}/{found.file}") for found in inner.differences]
        self.unchecked += [f"in {folder}: {reason}" for reason in inner.unchecked]

    def equal(
        self, file: str, what: str, stored: Any, measured: Any, row: int | None = None, *, words: Words = MEASURED
    ) -> None:
        """Compare values that must be the same."""
        if stored != measured:
            self.differ(file, what, stored, measured, row, words=words)

    def present(self, file: str, row: Mapping[str, Any], names: Sequence[str]) -> bool:
        """Whether these columns of a row have values; those that have none are recorded."""
        absent = [name for name in names if row[name] is None]
        for name in absent:
            self.differ(file, name, None, "a value", row["row"], words=EXPECTED)
        return not absent

    def close(
        self,
        file: str,
        what: str,
        stored: float | None,
        measured: float | None,
        row: int | None = None,
        *,
        scale: float = 0.0,
    ) -> None:
        """Compare numbers that may differ by `RELATIVE`, in relation to the larger of them and ``scale``.

        None and NaN mean that a number is undefined; they agree with each other only.

        >>> found = Findings(Path("run"), "run")
        >>> found.close("a", "mape", 1.0, 1.0009)
        >>> found.close("a", "mape", None, float("nan"))
        >>> found.close("a", "mape", 0.0, 1e-6, scale=0.01)
        >>> found.close("a", "score", float("inf"), float("inf"))
        >>> len(found.differences)
        0
        >>> found.close("a", "mape", 1.0, 1.002)
        >>> found.close("a", "mape", 1.0, None)
        >>> len(found.differences)
        2
        """
        if not agree(stored, measured, scale):
            self.differ(file, what, stored, measured, row)


def agree(stored: float | None, measured: float | None, scale: float = 0.0) -> bool:
    """Whether two numbers are the same up to rounding; see `Findings.close`."""
    one, other = (math.nan if value is None else value for value in (stored, measured))
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= RELATIVE * max(abs(one), abs(other), scale) < math.inf
