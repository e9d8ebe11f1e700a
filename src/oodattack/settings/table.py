"""The settings of a command as a Markdown table, for the documentation."""

from oodattack.settings.base import Settings
from oodattack.settings.field import Field, fields

_TO_RESUME = {"results": "same", "rounds": "same, for the rounds", "shards": "same or omitted", "nothing": "any"}
_HEAD = "| option | default | meaning | to resume |\n|---|---|---|---|\n"


def markdown_table(settings: type[Settings]) -> str:
    """One row per setting: option, default, meaning, and whether a command that resumes must give the same value.

    >>> from oodattack.settings import AttackSettings
    >>> "| `--steps` | 300 | gradient evaluations per try | same |" in markdown_table(AttackSettings)
    True
    """
    return _HEAD + "".join(f"| {' | '.join(_cells(field))} |\n" for field in fields(settings))


def _cells(field: Field) -> list[str]:
    cells = [f"`{field.option}`", field.default_text, field.meaning, _TO_RESUME[field.setting.affects]]
    return [cell.replace("|", r"\|") for cell in cells]
