"""Measure one run of one method (results, work, time), and store the measurements in a file."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.attackers import Attacker, search_share
from benchmarks.counter import Counter
from benchmarks.inputs import Case, latents
from oodattack.core.ball import distance
from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, to_grid
from oodattack.images import decode, encode_png
from oodattack.storage.files import write_text

Key = tuple[str, float | None, int, bool, int]


@dataclass(frozen=True)
class Measured:
    """The measurements of one attack on a batch; images are in the order of the case.

    Attributes:
        name: the attack.
        step_size: the step size used; None is the method's own.
        steps: the budget.
        searched: whether the budget includes the search on the 8-bit grid; the image is then on the grid already.
        first: index of the batch's first image.
        seconds: wall-clock time of the whole batch.
        forwards: total number of samples in forward passes through the encoder.
        backwards: total number of samples in backward passes.
        mape: MAPE of each image as the attack returned it, as a fraction, measured by the encoder as loaded.
        distance: its distance from its start, in the norm of the ball.
        png_mape: MAPE of the image that is decoded from the PNG file, rounded to the grid inside the ball.
        png_distance: its distance from its start.
    """

    name: str
    step_size: float | None
    steps: int
    searched: bool
    first: int
    seconds: float
    forwards: int
    backwards: int
    mape: list[float]
    distance: list[float]
    png_mape: list[float]
    png_distance: list[float]

    @property
    def key(self) -> Key:
        """Identifies the measurement."""
        return (self.name, self.step_size, self.steps, self.searched, self.first)


def measure(
    case: Case, attacker: Attacker, rows: slice, steps: int, step_size: float | None, *, searched: bool
) -> Measured:
    """Attack some images of a case and measure the result, as returned and as a PNG file."""
    f = Counter(case.prepared)
    grid_steps = search_share(steps) if searched else 0
    started = time.perf_counter()
    images = attacker.run(f, case, rows, steps, step_size, grid_steps).cpu()  # synchronises with a GPU
    seconds = time.perf_counter() - started
    start, target = case.start[rows], case.target[rows]
    eps = torch.full((len(images),), case.eps, dtype=torch.float64)
    files = [encode_png(levels) for levels in to_grid(images, start.cpu(), eps, case.norm)]
    decoded = dequantize(torch.stack([decode(file) for file in files]))
    figures = []
    for found in (images.to(start), decoded.to(start)):
        figures.append(mape(latents(case.encoder, found), target).tolist())
        figures.append(distance(found, start, case.norm).tolist())
    return Measured(attacker.name, step_size, steps, searched, rows.start, seconds, f.forwards, f.backwards, *figures)


class Results:
    """The measurements so far, in a JSON file that is replaced atomically and from which a comparison can resume.

    Args:
        path: the file, created with the first measurement.
        header: what is compared, and on which machine. A file with a different header cannot be resumed.

    Raises:
        InputError: if the file contains a different comparison or cannot be read.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.measured: dict[Key, Measured] = {}
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text())
            stored, found = content["header"], [Measured(**line) for line in content["measured"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"expected the results of a comparison in {path}, got {error!r}; move it away") from error
        changed = [name for name in {**header, **stored} if header.get(name) != stored.get(name)]
        if changed:
            raise InputError(
                f"expected {path} to contain this comparison, got another {', '.join(changed)}; choose another --out"
            )
        self.measured = {one.key: one for one in found}

    def add(self, one: Measured) -> None:
        """Add a measurement and write the file."""
        self.measured[one.key] = one
        lines = ",\n".join(json.dumps(asdict(each)) for each in self.measured.values())
        write_text(self.path, f'{{"header": {json.dumps(self.header)},\n"measured": [\n{lines}\n]}}\n')
