"""The command that computes the same results again, from the settings that are saved beside them."""

import shlex
from collections.abc import Mapping
from typing import Any

from oodattack.report.numbers import eps_label
from oodattack.settings.base import Settings
from oodattack.settings.field import Field, fields
from oodattack.settings.parse import parse_number
from oodattack.settings.saved import plain


def command(verb: str, settings: type[Settings], saved: Mapping[str, Any], out: str) -> str:
    """The command line with every saved setting that differs from its default.

    Args:
        verb: "attack", "audit" or "train".
        settings: the class of the settings.
        saved: the settings as saved (`oodattack.settings.saved`); settings of other versions are left out.
        out: the output directory.

    >>> from oodattack.settings import AttackSettings
    >>> saved = {"encoder": "embedded", "images": "my photos", "start": ["noise", "spiral"], "eps": [8 / 255, "inf"]}
    >>> print(command("attack", AttackSettings, saved, "run"))
    oodattack attack --encoder embedded --images 'my photos' --start noise --start spiral --eps 8/255,inf --out run
    """
    words = ["oodattack", verb]
    for field in fields(settings):
        if field.name == "out":
            continue
        if field.name in saved and saved[field.name] not in (None, plain(field.default)):
            words += _words(field, saved[field.name])
    return shlex.join([*words, "--out", out])


def _words(field: Field, value: Any) -> list[str]:
    if field.kind is bool:
        return [field.option if value else f"--no-{field.option.removeprefix('--')}"]
    values = [_text(one) for one in (value if field.many else [value])]
    if field.setting.commas:
        values = [",".join(values)]
    return [word for one in values for word in (field.option, one)]


def _text(value: Any) -> str:
    """A value as it is given on the command line: a fraction such as 8/255 only if it is exactly that number."""
    if isinstance(value, float):
        short = eps_label(value)
        return short if parse_number("", short) == value else repr(value)
    return str(value)
