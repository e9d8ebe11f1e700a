"""A setting is declared once, as an annotated dataclass field; options, docs and identity are derived from it."""

import dataclasses
import typing
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal

Part = Literal["results", "rounds", "shards", "nothing"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a settings field declares besides its type and default.

    Attributes:
        text: what the setting means, for `--help` and the documentation.
        affects: the part of the output that depends on it; a command that resumes that part must give the same value.
            "results" is the main part, "rounds" are the rounds of a training, and "shards" is the layout of the shards,
            which the output itself records: a command that resumes may omit such a setting.
        unset: if the default is None, what is used instead.
        commas: whether several values are one comma-separated option (`--eps 1,5`) instead of a repeated option.
        check: called with the name and the value, unless the value is None; raises InputError.

    >>> Setting("number of CPU threads", affects="nothing").affects
    'nothing'
    """

    text: str
    affects: Part = "results"
    unset: str = ""
    commas: bool = False
    check: Callable[[str, Any], None] | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a settings class, as declared.

    Attributes:
        name: name of the field, and of the key in a settings file.
        kind: the type of a value: bool, int, float, str or Path.
        choices: the only values accepted; empty if any value of that type is accepted.
        many: whether the field is a tuple of such values.
        default: the default, or `dataclasses.MISSING`.
        setting: the rest of the declaration.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    many: bool
    default: Any
    setting: Setting

    @property
    def required(self) -> bool:
        """Whether the field has no default."""
        return self.default is dataclasses.MISSING

    @property
    def option(self) -> str:
        """The option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def meaning(self) -> str:
        """The text, followed by the choices and how to give several values."""
        choices = f": {' | '.join(self.choices)}" if self.choices else ""
        several = "; separate several with commas" if self.setting.commas else "; repeat for several"
        return self.setting.text + choices + several * self.many

    @property
    def default_text(self) -> str:
        """The default in words; empty if the setting is simply absent or off by default."""
        if self.required:
            return "required"
        if self.default is None:
            return self.setting.unset
        if self.default is False:
            return ""
        values = self.default if self.many else (self.default,)
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def fields(settings: type) -> tuple[Field, ...]:
    """The fields of a settings class, in order.

    >>> from typing import Annotated
    >>> @dataclasses.dataclass
    ... class Example:
    ...     step_size: Annotated[float | None, Setting("step size", unset="eps/20")] = None
    >>> (field,) = fields(Example)
    >>> field.option, field.kind, field.default_text
    ('--step-size', <class 'float'>, 'eps/20')
    """
    hints = typing.get_type_hints(settings, include_extras=True)
    return tuple(_field(f.name, hints[f.name], f.default) for f in dataclasses.fields(settings))


def _field(name: str, hint: Any, default: Any) -> Field:
    kind, setting = typing.get_args(hint)  # of Annotated[kind, Setting(...)]
    many = typing.get_origin(kind) is tuple
    if many or NoneType in typing.get_args(kind):  # tuple[kind, ...] or kind | None
        kind = typing.get_args(kind)[0]
    choices = typing.get_args(kind)  # of a Literal
    return Field(name, str if choices else kind, choices, many, default, setting)
