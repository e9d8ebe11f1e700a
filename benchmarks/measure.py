"""One run of one method on some images: its results, its work and its seconds; and the file that keeps them."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.attackers import Attacker, Counter
from benchmarks.inputs import Case, latents
from oodattack.core.ball import distance
from oodattack.core.errors import InputError
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, quantize
from oodattack.images import decode, encode_png
from oodattack.storage.files import write_text

Key = tuple[str, float | None, int, bool, int]


@dataclass(frozen=True)
class Measured:
    """A batch after one attack; per image in the order of the case.

    Attributes:
        name: the attack.
        step_size: that it was given; None is its own.
        steps: the budget.
        saved: whether the attack was to end on the 8-bit grid, and the figures are those of the decoded PNG.
        first: place of the batch's first image.
        seconds: wall time of the whole batch.
        forwards: samples that passed forward through the encoder, all in all.
        backwards: samples that passed backward.
        mape: of each image, a fraction, by the encoder as it was loaded.
        distance: of each image, in the norm of the ball.
    """

    name: str
    step_size: float | None
    steps: int
    saved: bool
    first: int
    seconds: float
    forwards: int
    backwards: int
    mape: list[float]
    distance: list[float]

    @property
    def key(self) -> Key:
        """What was measured."""
        return (self.name, self.step_size, self.steps, self.saved, self.first)


def measure(
    case: Case, attacker: Attacker, rows: slice, steps: int, step_size: float | None, *, saved: bool
) -> Measured:
    """Attack some images of a case, and measure."""
    f = Counter(case.prepared)
    began = time.perf_counter()
    images = attacker.run(f, case, rows, steps, step_size, 256 if saved else None).cpu()  # a GPU is waited for
    seconds = time.perf_counter() - began
    if saved:
        images = dequantize(torch.stack([decode(encode_png(levels)) for levels in quantize(images)]))
    images = images.to(case.start)
    return Measured(
        attacker.name,
        step_size,
        steps,
        saved,
        rows.start,
        seconds,
        f.forwards,
        f.backwards,
        mape(latents(case.encoder, images), case.target[rows]).tolist(),
        distance(images, case.start[rows], case.norm).tolist(),
    )


class Results:
    """What has been measured, in one JSON file that is whole at any time; the next start goes on with it.

    Args:
        path: the file; made when the first result comes.
        header: what is compared, and where. A file of something else is not gone on with.

    Raises:
        InputError: if the file holds another comparison, or cannot be read.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.measured: dict[Key, Measured] = {}
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text())
            there, found = content["header"], [Measured(**line) for line in content["measured"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"expected the results of a comparison in {path}, got {error!r}; move it away") from error
        changed = [name for name in {**header, **there} if header.get(name) != there.get(name)]
        if changed:
            raise InputError(
                f"expected {path} to hold this very comparison, got another {', '.join(changed)}; choose another --out"
            )
        self.measured = {one.key: one for one in found}

    def add(self, one: Measured) -> None:
        """Keep a result, on the disk too."""
        self.measured[one.key] = one
        lines = ",\n".join(json.dumps(asdict(each)) for each in self.measured.values())
        write_text(self.path, f'{{"header": {json.dumps(self.header)},\n"measured": [\n{lines}\n]}}\n')
