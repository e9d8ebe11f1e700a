"""Convert plain values, from the command line, a TOML file or Python, to the types of the fields."""

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.settings.checks import one_of
from oodattack.settings.field import Field

_ACCEPTED: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str, Path),
    Path: (str, Path),
}
_BEFORE_OPTION = re.compile(r",(?=\s*\w+=)")
_DESCRIPTIONS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}


def split_options(spec: str) -> tuple[str, list[str]]:
    """The name and the options of a string such as that of an encoder: ``NAME,key=value,...``.

    A comma is a separator only if ``key=`` follows it, so that paths may contain commas.

    >>> split_options("trained:nets, old/a,layer=fc")
    ('trained:nets, old/a', ['layer=fc'])
    """
    name, *options = _BEFORE_OPTION.split(spec)
    return name, options


def load_config(path: Path) -> dict[str, Any]:
    """Read the settings in a TOML file, by the names used in the file.

    Raises:
        InputError: if the file cannot be read or is not TOML.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "attack.toml").write_text("eps = [1, '8/255']")
    ...     load_config(Path(folder, "attack.toml"))
    {'eps': [1, '8/255']}
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the settings in {path}: {error}; expected TOML lines such as eps = 5") from error


def convert(field: Field, value: Any) -> Any:
    """Convert a plain value to the type of a field; a tuple may be given as one value, a path as a string.

    Raises:
        InputError: if the value is of the wrong type, or not one of the choices.
    """
    if value is None and field.default is None:
        return None
    if not field.many:
        return _convert_one(field, value)
    values = value if isinstance(value, list | tuple) else [value]
    if field.setting.commas:
        values = _split(values)
    return tuple(_convert_one(field, one) for one in values)


def parse_number(name: str, text: str) -> float:
    """Parse a number, a fraction such as ``8/255``, or ``inf``.

    Raises:
        InputError: if it is none of these.

    >>> parse_number("eps", "8/255") == 8 / 255, parse_number("eps", "inf")
    (True, inf)
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if math.isnan(value):
        raise InputError(f"expected {name} to be a number, a fraction such as 8/255, or inf, got {text!r}")
    return value


def _convert_one(field: Field, value: Any) -> Any:
    if field.choices:
        one_of(field.name, value, field.choices)
        return value
    if isinstance(value, str):
        value = _parse(field, value)
    misplaced_bool = isinstance(value, bool) and field.kind is not bool  # isinstance(True, int) holds
    if misplaced_bool or not isinstance(value, _ACCEPTED[field.kind]):
        raise InputError(f"expected {field.name} to be {_DESCRIPTIONS[field.kind]}, got {value!r}")
    return field.kind(value)


def _parse(field: Field, text: str) -> Any:
    """Parse text as a number if the field is one: items of a comma-separated list and fractions arrive as text."""
    if field.kind is float:
        return parse_number(field.name, text)
    if field.kind is int and text.removeprefix("-").isdecimal():
        return int(text)
    return text


def _split(values: Sequence[Any]) -> list[Any]:
    """Values with every string split at its commas."""
    split: list[Any] = []
    for value in values:
        split += [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
    return split
