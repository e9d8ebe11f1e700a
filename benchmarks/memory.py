"""Peak memory of `oodattack attack` for few and for many images; runs stream from disk to disk, so it should not grow.

    OMP_NUM_THREADS=1 python -m benchmarks.memory

Runs the program twice, each time in a separate process, on generated images and a small encoder, and for comparison a
process that only imports the program's dependencies. Peaks are in the unit of the system's `rusage`: KiB on Linux.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Print the peaks and the ratio of the two runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="python:tests.factories:tiny")
    parser.add_argument("--images", type=int, nargs=2, default=(200, 2000), help="numbers of images of the two runs")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    imports = peak("-c", "import oodattack.engines, oodattack.report")
    few, many = (attack_peak(given.encoder, images, given.steps) for images in given.images)
    print(
        f"ratio {many / few:.3f}: {few} for {given.images[0]} images, {many} for {given.images[1]},"
        f" {imports} for the imports alone"
    )


def attack_peak(encoder: str, images: int, steps: int) -> int:
    """Peak memory of a run on the given number of images, from PNG files to the final table."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for number in range(images):
            Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(f"{folder}/{number:05d}.png")
        out = Path(folder) / "run"
        return peak(
            *("-m", "oodattack", "attack", "--encoder", encoder, "--images", folder, "--start", "noise"),
            *("--steps", str(steps), "--batch-size", "32", "--device", "cpu", "--out", str(out), "--quiet"),
        )


def peak(*arguments: str) -> int:
    """Peak resident size of a Python process with these arguments, or that of this process at the fork if larger."""
    process = subprocess.Popen([sys.executable, *arguments])  # noqa: S603 -- the arguments come from this file
    _, status, usage = os.wait4(process.pid, 0)  # for this child only; RUSAGE_CHILDREN is the maximum over all
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    return usage.ru_maxrss


if __name__ == "__main__":
    main()
