"""Which folder may import which (the contracts in pyproject.toml), and what the core may import."""

import subprocess
import sys
from pathlib import Path

import grimp
from benchmarks.imports import counted_imports, draw, layers

ROOT = Path(__file__).parents[1]


def test_arrows_point_down_and_nowhere_in_a_circle() -> None:
    """In a process of its own, because import-linter disables all loggers that exist."""
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


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
