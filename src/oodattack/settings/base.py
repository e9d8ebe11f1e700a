"""What all settings classes share: conversion and checks on construction, and merging of files and options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from oodattack.core.errors import InputError, did_you_mean
from oodattack.settings.field import fields
from oodattack.settings.parse import convert


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one command. Every field of a subclass is ``name: Annotated[type, Setting(...)] = default``.

    Construction converts each value to the type of its field and checks it.

    Raises:
        InputError: naming the setting, what was expected, and what was given.
    """

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            value = convert(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.setting.check is not None and value is not None:
                field.setting.check(field.name, value)
        self.check()

    def check(self) -> None:
        """Check conditions that involve several settings.

        Raises:
            InputError: naming these settings.
        """

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Self:
        """Build settings from mappings of plain values; later mappings override earlier ones.

        Args:
            sources: values by setting, as read from a TOML file or the command line. ``step-size`` and ``step_size``
                are the same setting; None leaves a setting at its default.

        Raises:
            InputError: for an unknown name (suggesting the nearest), a missing setting, or an invalid value.

        >>> from oodattack.settings import AttackSettings
        >>> file = {"encoder": "embedded", "images": "photos", "start": "noise", "out": "run", "eps": 5}
        >>> AttackSettings.of(file, {"eps": "1,8/255"}).eps
        (1.0, 0.03137254901960784)
        """
        values: dict[str, Any] = {}
        for source in sources:
            values |= _by_field(cls, source)
        required = [field for field in fields(cls) if field.required]
        missing = [field.option for field in required if values.get(field.name) in (None, "", (), [])]
        if missing:
            raise InputError(f"missing {', '.join(missing)}: expected on the command line or in the --config file")
        return cls(**values)


def _by_field(settings: type[Settings], source: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one source by field name, without those that are None."""
    names = [field.name for field in fields(settings)]
    values: dict[str, Any] = {}
    for given, value in source.items():
        name = given.replace("-", "_")
        if name not in names:
            hint = did_you_mean(name, names) or f"; expected one of {', '.join(names)}"
            raise InputError(f"unknown setting {given!r}{hint}")
        if name in values:
            raise InputError(f"expected each setting once, got {name} and {name.replace('_', '-')}; remove one")
        values[name] = value
    return {name: value for name, value in values.items() if value is not None}
