"""Real images that ship with Python packages: photographs as x_in, medical images as starts."""

import importlib.util
import shutil
from pathlib import Path

from oodattack.core.errors import InputError

PHOTOGRAPHS = {
    "cat.png": ("skimage", "data/chelsea.png"),
    "coffee.png": ("skimage", "data/coffee.png"),
    "rocket.jpg": ("skimage", "data/rocket.jpg"),
    "astronaut.png": ("skimage", "data/astronaut.png"),
    "temple.jpg": ("sklearn", "datasets/images/china.jpg"),
    "flower.jpg": ("sklearn", "datasets/images/flower.jpg"),
}
STARTS = {
    "ct.dcm": ("pydicom", "data/test_files/CT_small.dcm"),
    "fundus.jpg": ("skimage", "data/retina.jpg"),
}


def copy_photographs(out: Path) -> tuple[Path, list[Path]]:
    """Copy the images to ``out/x_in`` and ``out/starts``, where the user can look at them.

    Returns:
        The folder of the photographs, and the files of the starts.

    Raises:
        InputError: if a package is missing or the folder is not writable.
    """
    for folder, images in (("x_in", PHOTOGRAPHS), ("starts", STARTS)):
        for name, (package, path) in images.items():
            source = _home(package) / path
            try:
                (out / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, out / folder / name)
            except OSError as error:
                raise InputError(
                    f"cannot copy {source.name} to {out / folder}: {error.strerror or error}; choose another --out"
                ) from error
    return out / "x_in", [out / "starts" / name for name in STARTS]


def _home(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"the demo needs the package {package}; install it with pip install 'oodattack[demo]'")
    return Path(found.origin).parent
