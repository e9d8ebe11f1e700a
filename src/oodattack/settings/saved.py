"""Settings as they are saved beside the results."""

import math
from pathlib import Path
from typing import Any

from oodattack.settings.base import Settings
from oodattack.settings.field import Part, fields


def identity(settings: Settings, part: Part = "results") -> dict[str, Any]:
    """The settings that one part of the output depends on; a command that resumes it must give the same values.

    Returns:
        JSON values by setting; infinity is "inf".

    >>> from oodattack.settings import AttackSettings
    >>> settings = AttackSettings(encoder="embedded", images="a", start=("noise",), eps=(math.inf,), out=Path("b"))
    >>> identity(settings)["eps"]
    ['inf']
    """
    return {
        field.name: plain(getattr(settings, field.name))
        for field in fields(type(settings))
        if field.setting.affects == part
    }


def saved(settings: Settings) -> dict[str, Any]:
    """All settings as JSON values.

    >>> from oodattack.settings import TrainSettings
    >>> saved(TrainSettings(train="photos", out=Path("net")))["out"]
    'net'
    """
    return {field.name: plain(getattr(settings, field.name)) for field in fields(type(settings))}


def plain(value: Any) -> Any:
    """The value of a setting as a JSON value.

    >>> plain((Path("a"), math.inf))
    ['a', 'inf']
    """
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return str(value) if isinstance(value, Path) else value
