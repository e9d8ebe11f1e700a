"""Command-line options from settings: one option per field, and --config for a file of them."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Concatenate, TypeVar

import typer

from oodattack.settings.base import Settings
from oodattack.settings.field import Field, fields
from oodattack.settings.parse import load_config

S = TypeVar("S", bound=Settings)
Json = Annotated[bool, typer.Option("--json", help="print the results as JSON on standard output")]
Quiet = Annotated[bool, typer.Option("--quiet", help="print nothing but errors")]
_Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the same settings; options override it", show_default=False),
]


def with_settings(kind: type[S]) -> Callable[[Callable[Concatenate[S, ...], None]], Callable[..., None]]:
    """Turn a function of settings and options into a command with an option for every field.

    Args:
        kind: the class of the settings, which are the function's first parameter. Its other parameters are passed to
            typer unchanged.

    >>> from oodattack.settings import AttackSettings
    >>> @with_settings(AttackSettings)
    ... def steps(settings: AttackSettings) -> None:
    ...     print(settings.steps)
    >>> steps(config=None, encoder="embedded", images="photos", start=["noise"], out="run", steps=3)
    3
    """

    def decorate(function: Callable[Concatenate[S, ...], None]) -> Callable[..., None]:
        def command(config: Path | None, **given: Any) -> None:
            options = {field.name: given.pop(field.name, None) for field in fields(kind)}
            file = {} if config is None else load_config(config)
            function(kind.of(file, {name: value for name, value in options.items() if value != []}), **given)

        shared = Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=_Config)
        own = list(signature(function).parameters.values())[1:]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = Signature([*map(_parameter, fields(kind)), shared, *own])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(field: Field) -> Parameter:
    """An option that is None, or an empty list, unless given: the --config file takes precedence over defaults."""
    remark = "(required)" if field.required else f"(default: {field.default_text})" if field.default_text else ""
    metavar = "<number>" if field.kind is float and not field.many else None  # not <str>, as which typer receives it
    text = f"{field.meaning} {remark}".strip()
    option = typer.Option(
        _flags(field),
        help=text,
        metavar=metavar,
        show_default=False,
        autocompletion=_completer(field) if field.choices else None,
    )
    return Parameter(
        field.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[_type(field) | None, option]
    )


def _flags(field: Field) -> str:
    """The option; a flag also has its opposite, which overrides a --config file that sets it."""
    return f"{field.option}/--no-{field.option.removeprefix('--')}" if field.kind is bool else field.option


def _completer(field: Field) -> Callable[[str], list[str]]:
    """The function that completes a choice in a shell, also after the comma of a list."""

    def complete(incomplete: str) -> list[str]:
        *before, last = incomplete.split(",") if field.setting.commas else [incomplete]
        left = [choice for choice in field.choices if choice.startswith(last) and choice not in before]
        return [",".join([*before, choice]) for choice in left]

    return complete


def _type(field: Field) -> Any:
    """The type for typer: numbers that may be fractions and comma-separated lists are passed on as text."""
    if field.many:
        return str if field.setting.commas else list[str]
    return str if field.kind is float else field.kind
