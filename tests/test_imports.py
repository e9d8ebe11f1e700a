"""Which folder may import which (the contracts in pyproject.toml), and what the core may import."""

import sys
from pathlib import Path

import grimp
import pytest
from benchmarks.imports import counted_imports, draw, layers
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]


def test_arrows_point_down_and_nowhere_in_a_circle(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_core_imports_torch_and_itself_only() -> None:
    graph = grimp.build_graph("oodattack", include_external_packages=True)
    core = {"oodattack.core", *graph.find_descendants("oodattack.core")}
    imported = {name for module in core for name in graph.find_modules_directly_imported_by(module)} - core
    assert {name for name in imported if name not in sys.stdlib_module_names} == {"torch"}


def test_the_figure_of_the_imports_shows_every_folder() -> None:
    names = layers()
    imports = counted_imports(names)
    shown = [text.get_text() for text in draw(names, imports).axes[0].texts]
    assert all(name in shown for name in names)
    assert {importer for importer, _ in imports} == set(names) - {"core"}
