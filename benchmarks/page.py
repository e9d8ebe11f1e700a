"""How long the page of a run takes: to write, to open, to filter; and how large it is.

    python -m benchmarks.page --rows 1000,10000 --folder /tmp/pages

The runs are synthetic, but of the usual size: photographs of 224x224 pixels, crops of those of scikit-image, latents of
1280 numbers, 100 steps; the images of a thousand rows differ, and larger runs repeat them. Opening ends when the first
images can be seen, filtering when the new ones are.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from skimage import data

from oodattack.report.page import write_page
from oodattack.runs import Run, ShardRecord, open_run, start_run

SIDE, LATENT, STEPS, SHARD = 224, 1280, 100, 100
FILTER = """async () => {
    const seen = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const begun = performance.now();
    document.querySelector("[data-bar]").dispatchEvent(new MouseEvent("click", {bubbles: true}));
    await seen();
    return (performance.now() - begun) / 1000;
}"""


def make_run(path: Path, rows: int, seed: int = 0) -> Run:
    """A synthetic run."""
    header = {
        "settings": {"encoder": "synthetic", "images": "photos", "start": ["noise"], "eps": [5.0], "norm": "l2"}
        | {"steps": STEPS, "method": "fast", "gradient": "autograd"},
        "inputs": {"layer": "fc", "latent_dim": LATENT, "input_size": [SIDE, SIDE], "parts": [LATENT]},
        "rows": rows,
        "rows_per_shard": SHARD,
        "batch_size": SHARD,
        "half": False,
        "rough": False,
        "environment": {"device": "cpu"},
    }
    generator = np.random.default_rng(seed)
    different = list(_rows(range(min(rows, 1000)), generator))
    with start_run(path, header) as run:
        for number in range(run.shard_count):
            shard = [{**different[row % 1000], "row": row} for row in run.shard_rows(number)]
            run.write_shard(number, shard, ShardRecord())
    return open_run(path)


def _rows(numbers: range, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    photographs = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    start = _png(generator.integers(0, 256, (SIDE, SIDE, 3)))
    for number in numbers:
        photograph = photographs[number % len(photographs)]
        top, left = (generator.integers(0, size - SIDE) for size in photograph.shape[:2])
        x_in = photograph[top : top + SIDE, left : left + SIDE]
        mape = float(10 ** generator.normal(-3, 0.5))
        z = np.abs(generator.normal(size=(3, LATENT))).astype(np.float32)
        yield {
            "row": number,
            "x_in_name": f"photos/{number:05d}.png",
            "start_source": "noise",
            "start_name": "noise",
            "eps": 5.0,
            "norm": "l2",
            "seed": number,
            "pipeline": None,
            "image": _png(np.clip(x_in + generator.normal(0, 8, x_in.shape), 0, 255)),
            "x_in": _png(x_in),
            "start": start,
            "mape": mape,
            "mape_float": mape,
            "mape_before": 0.1,
            "mape_note": "",
            "mape_parts": [mape],
            "distance": 5.0,
            "distance_float": 5.0,
            "distance_before": 0.0,
            "gradient_evaluations": 150,
            "forward_evaluations": 0,
            "restart": 0,
            "z_in": z[0],
            "z_start": z[1],
            "z_out": z[2],
            **{f"class_{which}": "tabby" for which in ("in", "start", "out")},
            **{f"probability_{which}": 0.5 for which in ("in", "start", "out")},
            "history": np.geomspace(0.1, mape, STEPS + 1).astype(np.float32),
        }


def _png(pixels: np.ndarray) -> dict[str, Any]:
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}


def measure(run: Run, page: Page, *, single_file: bool) -> list[str]:
    """One line of the table."""
    begun = time.perf_counter()
    path = write_page(run.path, single_file=single_file)
    built = time.perf_counter() - begun
    files = [path] if single_file else [file for file in path.parent.rglob("*") if file.is_file()]
    begun = time.perf_counter()
    page.goto(path.resolve().as_uri())
    page.locator(".card img").first.wait_for()
    opened = time.perf_counter() - begun
    filtered = max(page.evaluate(FILTER) for _ in range(4))
    return [
        str(run.header["rows"]),
        "one file" if single_file else "folder",
        *(f"{seconds:.2f}" for seconds in (built, opened, filtered)),
        f"{path.stat().st_size / 1e6:.1f}",
        f"{sum(file.stat().st_size for file in files) / 1e6:.0f}",
    ]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,10000", help="sizes of the runs, after commas")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs and their pages are written")
    arguments = parser.parse_args()
    print("| rows | form | build, s | open, s | filter, s | HTML, MB | all files, MB |\n|---|---|---|---|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for rows in map(int, arguments.rows.split(",")):
            path = arguments.folder / str(rows)
            run = open_run(path) if (path / "run.json").exists() else make_run(path, rows)
            for single_file in (False, True):
                page = browser.new_page()
                print(f"| {' | '.join(measure(run, page, single_file=single_file))} |", flush=True)
                page.close()


if __name__ == "__main__":
    main()
