"""Images that anyone may publish, as files: digits of scikit-learn, and crops of scikit-image's photographs.

    python -m benchmarks.free_images --out free

Writes ``digits/train`` and ``digits/test`` (1,797 optical digits of the UCI repository, CC BY 4.0, enlarged from 8x8 to
32x32 pixels, one folder per class; every fourth is for testing), ``photographs`` (60 crops of 32x32 pixels of the
astronaut and the rocket) and ``outliers`` (the same of the four other photographs of the demo, to train on).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from oodattack.cli.photographs import copy_photographs

SIDE, CROPS, SHORTER_SIDE = 32, 30, 128
TESTED = ("astronaut", "rocket")


def write_digits(folder: Path) -> None:
    """Write the digits, in two folders with a folder per class."""
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("train" if index % 4 else "test") / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((image * 255 / 16).astype(np.uint8))
        pixels.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


def write_crops(out: Path, photographs: Path, seed: int = 0) -> None:
    """Write random crops of each photograph, reduced so that a crop is a quarter of its shorter side."""
    generator = np.random.default_rng(seed)
    for file in sorted(photographs.iterdir()):
        folder = out / ("photographs" if file.stem in TESTED else "outliers")
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        scale = SHORTER_SIDE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        for number in range(CROPS):
            left, top = (int(generator.integers(0, size - SIDE + 1)) for size in image.size)
            image.crop((left, top, left + SIDE, top + SIDE)).save(folder / f"{file.stem}-{number:02d}.png")


def main() -> None:
    """Write all images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    write_digits(out / "digits")
    photographs, _ = copy_photographs(out / "originals")
    write_crops(out, photographs)


if __name__ == "__main__":
    main()
