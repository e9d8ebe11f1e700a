"""Examples run, links resolve, and tables match the code."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("encoders", "images", "engines", "runs", "report", "detectors", "audit", "training", "networks")
PACKAGES = ["oodattack", *(f"oodattack.{name}" for name in PARTS)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_has_an_example_that_runs(package: str) -> None:
    module = importlib.import_module(package)
    functions = [getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    assert functions
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
