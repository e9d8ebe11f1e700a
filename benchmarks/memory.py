"""Peak memory of `oodattack attack` on few images and on many: a run streams from disk to disk.

    OMP_NUM_THREADS=1 python -m benchmarks.memory

Two runs of the program, each in a process of its own, on images made for it and a small encoder; beside them the peak
of a process that only imports what the program needs. In the unit of the system's `rusage`: KiB on Linux.
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
    parser.add_argument("--images", type=int, nargs=2, default=(200, 2000), help="images of the two runs")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    imports = peak("-c", "import oodattack.engines, oodattack.report")
    few, many = (attack_peak(given.encoder, images, given.steps) for images in given.images)
    print(
        f"ratio {many / few:.3f}: {few} for {given.images[0]} images, {many} for {given.images[1]},"
        f" {imports} for the imports alone"
    )


def attack_peak(encoder: str, images: int, steps: int) -> int:
    """Peak of a run over so many images, from making PNG files to the table at the end."""
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
    """Peak resident size of a Python process with these arguments; not below that of this process when it begins."""
    process = subprocess.Popen([sys.executable, *arguments])  # noqa: S603 -- this file's own words
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone; RUSAGE_CHILDREN keeps the largest so far
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    return usage.ru_maxrss


if __name__ == "__main__":
    main()
