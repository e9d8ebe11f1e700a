"""Settings are declared once: options, files, identity and documentation all follow from the fields."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from oodattack.cli.app import app
from oodattack.cli.options import with_settings
from oodattack.core.attack import attack
from oodattack.core.errors import InputError
from oodattack.core.gradient import get_gradient
from oodattack.core.methods import get_method
from oodattack.settings import COMMANDS, AttackSettings, Settings, identity
from oodattack.settings.audit import ATTACKS
from oodattack.settings.ball import NORM_NAMES, NORMS
from oodattack.settings.field import Field, Setting, fields
from oodattack.settings.parse import load_config
from oodattack.settings.saved import saved
from oodattack.settings.table import markdown_table

PARTS = ("results", "rounds", "shards", "nothing")
EVERY_COMMAND = pytest.mark.parametrize("kind", COMMANDS.values(), ids=list(COMMANDS))
EVERY_FIELD = pytest.mark.parametrize(
    ("kind", "field"),
    [pytest.param(kind, field, id=f"{verb}-{field.name}") for verb, kind in COMMANDS.items() for field in fields(kind)],
)


def other_value(field: Field) -> Any:
    """A valid value that is neither the default nor the one in `example`."""
    if field.choices:
        value: Any = next(choice for choice in field.choices if choice not in (field.default, "linf"))
    elif field.name in ("require", "network"):
        value = {"require": "auroc>=0.5@l2:5", "network": "resnet8"}[field.name]
    elif field.kind is int:
        value = field.default + 1 if isinstance(field.default, int) else 2
    else:
        value = {bool: True, float: 0.5, str: "other", Path: Path("elsewhere")}[field.kind]
    return (value,) if field.many else value


def needed(kind: type[Settings]) -> dict[str, Any]:
    """Values of the required settings; an audit also needs starts of one kind or the other."""
    starts = {"ood": ["given"]} if kind is COMMANDS["audit"] else {}
    return {field.name: "given" for field in fields(kind) if field.required} | starts


def example(kind: type[Settings]) -> Settings:
    """Valid settings, with what some other settings need in order to be valid."""
    more = {"test": "test", "outliers": "outliers"} if "outliers" in {field.name for field in fields(kind)} else {}
    return kind.of(more, needed(kind))


def changed_settings(kind: type[Settings], field: Field) -> Settings:
    """The example with another value of a field, and what makes that valid."""
    flow = {"objective": "likelihood", "network": "glow-k1-l1-w8", "outliers": ()}
    more = flow if field.name in ("objective", "mutate") else {}
    return dataclasses.replace(example(kind), **{**more, field.name: other_value(field)})


def flags(values: dict[str, Any]) -> list[str]:
    """Values as command-line arguments."""
    arguments: list[str] = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(option)
        else:
            for one in value if isinstance(value, list) else [value]:
                arguments += [option, str(one)]
    return arguments


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def parsed(kind: type[Settings], arguments: list[str]) -> Settings:
    """The settings that a command receives from the command line."""
    received: list[Settings] = []

    def verb(settings: Settings, *, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        assert not loud
        received.append(settings)

    program = typer.Typer()
    program.command()(with_settings(kind)(verb))
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return received[0]


@EVERY_FIELD
def test_identity_changes_exactly_with_what_decides(kind: type[Settings], field: Field) -> None:
    before = example(kind)
    after = changed_settings(kind, field)
    assert after != before
    for part in PARTS:
        changed = identity(after, part) != identity(before, part)  # type: ignore[arg-type]
        assert changed == (field.setting.affects == part), part


@EVERY_FIELD
def test_options_and_files_give_the_same_settings(kind: type[Settings], field: Field, tmp_path: Path) -> None:
    changed = changed_settings(kind, field)
    values = {name: value for name, value in saved(changed).items() if value not in (None, False, [])}
    listed = {f.name for f in fields(kind) if f.setting.commas}
    options = {name: ",".join(map(str, value)) if name in listed else value for name, value in values.items()}
    hyphened = {name.replace("_", "-"): value for name, value in options.items()}
    assert parsed(kind, flags(options)) == changed
    file = tmp_path / "settings.toml"
    for written in (values, hyphened):
        file.write_text(toml(written))
        assert kind.of(load_config(file)) == changed


@EVERY_FIELD
def test_every_setting_is_an_option_with_help_and_a_line_in_the_table(kind: type[Settings], field: Field) -> None:
    verb = next(name for name, settings in COMMANDS.items() if settings is kind)
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    (option,) = [parameter for parameter in command.params if field.option in parameter.opts]
    assert field.meaning in option.help
    assert field.default_text in option.help
    assert markdown_table(kind).count(f"| `{field.option}` |") == 1


@EVERY_COMMAND
def test_options_come_in_the_order_of_the_fields(kind: type[Settings]) -> None:
    verb = next(name for name, settings in COMMANDS.items() if settings is kind)
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    names = [parameter.name for parameter in command.params]
    of_fields = [field.name for field in fields(kind)]
    assert names[: len(of_fields) + 1] == [*of_fields, "config"]
    assert names[-2:] == ["json", "quiet"]


@EVERY_COMMAND
def test_options_override_the_file(kind: type[Settings], tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(toml({**needed(kind), "seed": 3}))
    arguments = ["--config", str(file), "--seed", "0"]
    assert saved(parsed(kind, arguments))["seed"] == 0  # the default, but given
    assert saved(parsed(kind, arguments[:2]))["seed"] == 3


@EVERY_COMMAND
def test_a_flag_in_the_file_can_be_switched_off(kind: type[Settings], tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    booleans = [field for field in fields(kind) if field.kind is bool]
    assert booleans
    file.write_text(toml({**needed(kind), **{field.name: True for field in booleans}}))
    off = [field.option.replace("--", "--no-") for field in booleans]
    for arguments, expected in ([], True), (off, False):
        settings = saved(parsed(kind, ["--config", str(file), *arguments]))
        assert {settings[field.name] for field in booleans} == {expected}


@EVERY_COMMAND
def test_what_is_saved_is_json_and_gives_the_settings_back(kind: type[Settings]) -> None:
    infinite: dict[str, Any] = {"eps": math.inf} if "eps" in {field.name for field in fields(kind)} else {}
    settings = dataclasses.replace(example(kind), **infinite)
    values = json.loads(json.dumps(saved(settings), allow_nan=False))
    assert kind.of(values) == settings
    for part in PARTS:
        assert identity(settings, part).items() <= saved(settings).items()  # type: ignore[arg-type]


def test_a_new_setting_is_one_field() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Extended(AttackSettings):
        temperature: Annotated[float, Setting("temperature of the softmax")] = 1.0

    required = {"encoder": "embedded", "images": "photos", "start": "noise", "out": "run"}
    settings = parsed(Extended, flags({**required, "temperature": "1/4"}))
    assert identity(settings)["temperature"] == 0.25
    assert "| `--temperature` | 1 | temperature of the softmax | same |" in markdown_table(Extended)


def test_choices_are_those_of_the_core() -> None:
    choices = {field.name: field.choices for field in fields(AttackSettings)}
    for setting, get in (("method", get_method), ("gradient", get_gradient)):
        with pytest.raises(InputError) as error:
            get("zzz")
        known = re.findall("'([^']+)'", str(error.value))
        assert known == [*choices[setting], "zzz"]  # the core's own names, and what it got
        for name in choices[setting]:
            get(name)
    assert choices["norm"] == tuple(NORMS) == tuple(NORM_NAMES)
    (attacks,) = [field.choices for field in fields(COMMANDS["audit"]) if field.name == "attacks"]
    assert attacks == ATTACKS


def test_shared_texts_and_defaults_are_the_same_everywhere() -> None:
    demo = typer.main.get_command(app).commands["demo"]  # type: ignore[attr-defined]
    (help_of_demo,) = [parameter.help for parameter in demo.params if parameter.name == "steps"]
    (field,) = [field for field in fields(AttackSettings) if field.name == "steps"]
    assert help_of_demo == field.meaning
    steps = [AttackSettings.steps, signature(attack).parameters["steps"].default, COMMANDS["audit"].steps]  # type: ignore[attr-defined]
    usage = " ".join((Path(__file__).parents[1] / "docs" / "usage.md").read_text().split())
    said = re.search(r"by default (\d+) in `oodattack attack`, (\d+) in `attack\(\)` and `oodattack audit`", usage)
    assert said is not None
    assert [int(said[1]), int(said[2]), int(said[2])] == steps


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (({"epz": 1},), "unknown setting 'epz'; did you mean 'eps'"),
        (({"zzz": 1},), "unknown setting 'zzz'; expected one of encoder, images"),
        (({"step-size": 1, "step_size": 1},), "expected each setting once, got step_size and step-size"),
        (({"encoder": ""},), "missing --encoder, --images, --start, --out"),
    ],
)
def test_names_are_checked(sources: tuple[dict[str, Any], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AttackSettings.of(*sources)


def test_python_values_are_converted_and_checked() -> None:
    settings = AttackSettings.of({"encoder": "a", "images": Path("b"), "start": "noise", "out": "c", "eps": "1, 8/255"})
    assert (settings.images, settings.start, settings.out, settings.eps) == ("b", ("noise",), Path("c"), (1, 8 / 255))
    for wrong in ({"steps": 2.5}, {"steps": True}, {"trust": 1}, {"eps": True}, {"images": 3}, {"encoder": None}):
        with pytest.raises(InputError, match=f"expected {next(iter(wrong))} to be"):
            dataclasses.replace(settings, **wrong)


def test_mistakes_are_reported_without_torch() -> None:
    code = (
        "import sys\nsys.argv = ['oodattack', 'audit', '--eps', '-1', *'--encoder a --train b --test c --start d --out"
        " e'.split()]\nfrom oodattack.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "error: expected eps >= 0, got -1\n")
