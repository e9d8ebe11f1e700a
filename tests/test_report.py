"""The figures show what the run contains."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from oodattack.pipelines.attack import run_attack
from oodattack.report import draw_run
from oodattack.report.curves import convergence, mape_against_eps
from oodattack.report.grid import grid, typical_rows
from oodattack.report.histogram import histogram
from oodattack.runs import Run, open_run
from oodattack.settings.attack import AttackSettings
from tests.factories import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_attack(
        AttackSettings(
            encoder="python:tests.factories:tiny",
            images="torchvision:FakeData",
            limit=7,
            start=("noise", "spiral"),
            eps=(0.2, 1.0, 8.0),
            steps=15,
            device="cpu",
            out=tmp_path_factory.mktemp("report") / "run",
        )
    )


def test_the_typical_row_has_the_median_mape(run: Run) -> None:
    rows = run.read(["row", "start_name", "eps", "mape"]).to_pylist()
    chosen = typical_rows(run)
    assert len(chosen) == 6
    for number in chosen:
        row = rows[number]
        group = [r["mape"] for r in rows if (r["start_name"], r["eps"]) == (row["start_name"], row["eps"])]
        assert row["mape"] == np.median(group)


def test_the_grid_plots_the_latents_and_prints_their_mape(run: Run) -> None:
    rows = run.read(["mape", "mape_before", "z_in", "z_start", "z_out"]).to_pylist()
    axes = grid(run, [4]).axes
    assert len(axes) == 6
    for place, latents in ((1, ["z_in"]), (3, ["z_in", "z_start"]), (5, ["z_in", "z_out"])):
        drawn = [c for c in axes[place].collections if isinstance(c, PathCollection)]
        for collection, name in zip(drawn, latents, strict=True):
            np.testing.assert_allclose(np.asarray(collection.get_offsets())[:, 1], rows[4][name], rtol=1e-6)
    for place, name in ((3, "mape_before"), (5, "mape")):
        (text,) = axes[place].texts
        assert text.get_text() == f"MAPE {100 * rows[4][name]:.3g} %"


def test_the_histogram_counts_every_image(run: Run) -> None:
    figure = histogram(run)
    assert len(figure.axes) == 2 * 3
    for axes in figure.axes:
        heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
        assert sum(heights) == 2 * 7
        assert axes.get_xscale() == "log"


def test_an_error_of_zero_is_counted_too(run: Run, tmp_path: Path) -> None:
    """It has no place on an axis of decades: the first bar has it. One is written into a copy of a run."""
    exact = open_run(Path(shutil.copytree(run.path, tmp_path / "run")))
    table = exact.read_shard(0)
    mape = pa.array([0.0, *table["mape"].to_pylist()[1:]], table["mape"].type)
    pq.write_table(table.set_column(table.schema.get_field_index("mape"), "mape", mape), exact.shard(0))
    assert 0.0 in exact.read(["mape"])["mape"].to_pylist()
    for axes in histogram(exact).axes:
        assert axes.get_xscale() == "log"
        assert sum(patch.get_height() for patch in axes.patches) == 2 * 7  # type: ignore[attr-defined]


def test_convergence_is_the_median_of_the_histories(run: Run) -> None:
    (axes,) = convergence(run).axes  # type: ignore[union-attr]
    rows = run.read(["start_name", "eps", "history"]).to_pylist()
    first = [r["history"] for r in rows if (r["start_name"], r["eps"]) == ("noise", 0.2)]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), 100 * np.median(first, axis=0), rtol=1e-6)


def test_the_median_of_each_eps_is_drawn_against_it(run: Run) -> None:
    (axes,) = mape_against_eps(run).axes  # type: ignore[union-attr]
    rows = run.read(["start_name", "eps", "mape"]).to_pylist()
    for line, start in zip(axes.lines[:2], ("noise", "spiral"), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_xdata()), [0.2, 1.0, 8.0])
        groups = [[r["mape"] for r in rows if (r["start_name"], r["eps"]) == (start, eps)] for eps in (0.2, 1.0, 8.0)]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), 100 * np.median(groups, axis=1), rtol=1e-6)


def test_titles_and_marks_are_within_the_figures(tmp_path: Path) -> None:
    """Long encoder names are shortened and wrapped, the MAPE is written above the points, and panels wrap."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    torch.save(tiny().state_dict(), folder / f"{'weights' * 8}.pth")
    run = run_attack(
        AttackSettings(
            encoder=f"python:tests.factories:tiny,weights={folder}/{'weights' * 8}.pth,mean=0.485/0.456/0.406",
            images="torchvision:FakeData",
            limit=2,
            start=("noise", "spiral", "solid:gray", "checkerboard:8x8"),
            eps=(1.0,),
            steps=3,
            device="cpu",
            out=tmp_path / "run",
        )
    )
    latents = grid(run, [0, 2])
    for figure in (latents, histogram(run), convergence(run)):
        assert figure is not None
        FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
        title = figure._suptitle  # type: ignore[attr-defined]
        assert "long" not in title.get_text()
        assert "weightsweights" in title.get_text()
        box = title.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
    assert len(histogram(run).axes) == 4
    for axes in latents.axes:
        for text in axes.texts:
            points = np.concatenate([np.asarray(drawn.get_offsets()) for drawn in axes.collections])
            assert text.get_window_extent().y0 > axes.transData.transform(points)[:, 1].max()


def test_figures_are_written_atomically(run: Run, tmp_path: Path) -> None:
    drawn = draw_run(run, tmp_path / "pictures")
    assert sorted(path.name for path in drawn) == ["convergence.png", "eps.png", "grid.png", "histogram.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(path.name for path in drawn)


def test_zero_and_infinite_eps_are_drawn_as_categories(tmp_path: Path) -> None:
    run = run_attack(
        AttackSettings(
            encoder="python:tests.factories:tiny",
            images="torchvision:FakeData",
            limit=2,
            start=("noise",),
            eps=(0.0, 1.0, float("inf")),
            steps=5,
            device="cpu",
            out=tmp_path / "run",
        )
    )
    figure = mape_against_eps(run)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "inf"]
    zero = [row for row in run.read(["eps", "image", "start", "mape", "mape_before"]).to_pylist() if row["eps"] == 0]
    assert all(row["image"]["bytes"] == row["start"]["bytes"] for row in zero)
    assert all(row["mape"] == pytest.approx(row["mape_before"], rel=1e-3) for row in zero)


def test_the_figures_of_a_run_need_nothing_that_only_an_audit_needs() -> None:
    """In a separate process, because other tests have already imported everything here."""
    code = (
        "import sys, oodattack.engines, oodattack.report;"
        "print(sorted({'pytorch_ood', 'sklearn', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
