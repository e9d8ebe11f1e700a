"""`python -m benchmarks.imports`: draw which folder of the package imports which.

The order is that of the contract "Arrows point down" in pyproject.toml, which the tests check. An import that points up
is drawn in red on the left.
"""

import tomllib
from pathlib import Path
from typing import Annotated

import grimp
import typer
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).parents[1]
WHAT = {
    "cli": "one file per command",
    "api": "what Python calls",
    "report": "tables, figures, pages",
    "pipelines": "what a command does from end to end",
    "auditing": "detectors before and after the attacks",
    "training": "training networks",
    "attacks": "latent, informed, direct",
    "detectors": "detectors and their subjects",
    "engines": "map(work, chunks), memory",
    "runs": "rows, shards, summary",
    "storage": "files and tables, atomic and locked",
    "speed": "the prepared copy of an encoder",
    "encoders": "where f comes from",
    "networks": "small networks to train",
    "images": "where x_in and starts come from",
    "settings": "one dataclass per command",
    "core": "Algorithm 1",
}


def layers() -> list[str]:
    """The folders, from top to bottom, as the contract lists them.

    >>> layers()[0], layers()[-1]
    ('cli', 'core')
    """
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (names,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    return list(names)


def counted_imports(names: list[str]) -> dict[tuple[str, str], int]:
    """Number of imports from one folder by another, keyed by (importer, imported).

    >>> counted_imports(["attacks", "core"])["attacks", "core"] > 0
    True
    """
    graph = grimp.build_graph("oodattack", exclude_type_checking_imports=True)
    found: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        importer = module.split(".")[1:2]
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (*importer, *imported.split(".")[1:2])
            if len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(names):
                found[pair] = found.get(pair, 0) + 1
    return found


def draw(names: list[str], imports: dict[tuple[str, str], int]) -> Figure:
    """Draw an arc for each pair, in the colour of the importer; its width grows with the number of imports."""
    figure = Figure(figsize=(8, 0.48 * len(names) + 0.7), layout="constrained")
    axes: Axes = figure.subplots()
    places = {name: -row for row, name in enumerate(names)}
    colours = colormaps["tab10"]
    for name, y in places.items():
        axes.text(0, y, name, ha="right", va="center", fontsize=12, fontweight="bold")
        axes.text(0.12, y, WHAT.get(name, ""), ha="left", va="center", fontsize=10, color="0.35")
    for (importer, imported), count in imports.items():
        start, end = places[importer], places[imported]
        down = end < start
        x = 3.2 if down else -1.2
        axes.add_patch(
            FancyArrowPatch(
                (x, start - 0.1),
                (x, end + 0.1),
                connectionstyle="arc3,rad=-0.4" if down else "arc3,rad=-0.3",
                arrowstyle="-|>",
                mutation_scale=8,
                linewidth=0.4 + 0.12 * min(count, 20),
                color=colours(names.index(importer) % 10) if down else "red",
                alpha=0.7,
            )
        )
    axes.set_xlim(-1.6, 5.4)
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.set_title("Imports between the folders of oodattack: arrows point down", loc="left")
    axes.axis("off")
    return figure


def main(
    out: Annotated[Path, typer.Option(help="file to write, .png or .svg")] = ROOT / "docs" / "pictures" / "imports.png",
) -> None:
    """Draw which folder of the package imports which."""
    names = layers()
    draw(names, counted_imports(names)).savefig(out, dpi=110)
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
