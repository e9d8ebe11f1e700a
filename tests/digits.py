"""scikit-learn's digits and photographs as image files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SIDE = 16
COUNT = 600


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Write 600 digits of 16x16 pixels, about 60 of each, in class folders; a quarter of them are for testing."""
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images[:COUNT], digits.target[:COUNT], strict=True)):
        part = "test" if index % 4 == 0 else "train"
        path = folder / part / f"digit{label}" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((image * 255 / 16).astype(np.uint8))
        pixels.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
    return folder / "train", folder / "test"


def write_photographs(folder: Path, count: int) -> Path:
    """Write crops of 16x16 pixels from scikit-learn's two photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        photograph = Image.fromarray(load_sample_images().images[index % 2]).resize((320, 213))
        left, top = 13 * index % 300, 29 * index % 190
        photograph.crop((left, top, left + SIDE, top + SIDE)).save(folder / f"{index:03d}.png")
    return folder
