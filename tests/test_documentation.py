"""Examples run, links resolve, and tables match the code."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from oodattack.settings import COMMANDS
from oodattack.settings.table import markdown_table

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
FOLDERS = [path.parent.relative_to(SOURCE) for path in sorted(SOURCE.glob("oodattack/**/__init__.py"))]
PACKAGES = [".".join(folder.parts) for folder in FOLDERS if folder.name != "cli"]  # cli exports the program alone


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_function_has_an_example_that_runs(package: str) -> None:
    module = importlib.import_module(package)
    exported = [getattr(module, name) for name in vars(module).get("__all__", [])]
    functions = [function for function in exported if inspect.isfunction(function)]
    assert [function.__name__ for function in functions if ">>>" not in (function.__doc__ or "")] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(str(p) for p in ROOT.glob("docs/*.md"))])
def test_links_and_images_exist(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_columns_of_the_usage_page_are_those_of_a_run() -> None:
    from oodattack.runs import SCHEMA

    text = (ROOT / "docs" / "usage.md").read_text()
    table = text[text.index("| column |") : text.index("```python", text.index("| column |"))]
    named = set(re.findall(r"`([a-z_]+)`", table))
    for column in SCHEMA.names:
        assert column in named or column.startswith("probability_"), column


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_of_settings_of_the_usage_page_are_current(command: str) -> None:
    section = f"### `oodattack {command}`\n\n{markdown_table(COMMANDS[command])}\n"
    assert section in (ROOT / "docs" / "usage.md").read_text(), "paste the output of python -m oodattack.settings"
