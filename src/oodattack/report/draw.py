"""Draw the figures of a run and write them to a folder."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oodattack.core.errors import InputError
from oodattack.report.curves import convergence, mape_against_eps
from oodattack.report.grid import grid, typical_rows
from oodattack.report.histogram import histogram
from oodattack.runs import Run
from oodattack.storage.files import write_whole


def draw_run(run: Run, folder: Path, *, samples: Sequence[int] | None = None) -> list[Path]:
    """Draw the figures of a run, which need not be finished.

    Args:
        run: the run.
        folder: the folder to write the PNG files to.
        samples: rows for the grid; by default the row with the median MAPE of each start and eps, at most six.

    Returns:
        The files: ``grid.png``, ``histogram.png``, ``convergence.png`` and, with several eps, ``eps.png``. The list is
        empty for a run without rows.

    Raises:
        InputError: if the run does not have one of the rows, or the folder cannot be written.

    >>> import tempfile
    >>> from oodattack.pipelines.attack import run_attack
    >>> from oodattack.settings.attack import AttackSettings
    >>> f = "python:torch.nn:Flatten,size=8,layer=output"
    >>> with tempfile.TemporaryDirectory() as out:
    ...     settings = AttackSettings(
    ...         encoder=f, images="torchvision:FakeData", limit=2, start=("noise",), steps=3, out=Path(out) / "run"
    ...     )
    ...     [path.name for path in draw_run(run_attack(settings), Path(out) / "figures")]
    ['grid.png', 'histogram.png', 'convergence.png']
    """
    rows = set(run.read(["row"])["row"].to_pylist())
    missing = [row for row in samples or [] if row not in rows]
    if missing:
        raise InputError(f"expected rows of {run.path} ({_span(rows)}), got {missing[0]}")
    if not rows:
        return []
    # File names may contain $ signs, which must not start a formula, and characters that the font draws as boxes.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figures = {
            "grid": grid(run, samples or typical_rows(run)),
            "histogram": histogram(run),
            "convergence": convergence(run),
            "eps": mape_against_eps(run),
        }
        return [save(figure, Path(folder) / f"{name}.png") for name, figure in figures.items() if figure is not None]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file, atomically."""
    FigureCanvasAgg(figure)
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=110))
    return path


def _span(rows: set[int]) -> str:
    return f"{min(rows)} to {max(rows)}" if rows else "none yet"
