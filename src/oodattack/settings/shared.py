"""Settings that several commands share, each with its text in one place."""

from pathlib import Path
from typing import Annotated

from oodattack.settings.ball import NormName
from oodattack.settings.checks import at_least, seed_range, some_distinct
from oodattack.settings.field import Setting

EPS = Setting("radius of the ball, in pixels of [0, 1]: 5, 8/255 or inf", commas=True)
STEPS = Setting("gradient evaluations per try", check=at_least(1))

Encoder = Annotated[
    str,
    Setting(
        "the encoder f: embedded | torchvision:NAME | timm:NAME | file:PATH | python:MODULE:FACTORY | trained:DIR, with"
        " options after commas: weights=none|PATH, layer=NAME[+NAME], size=224, mean=…, std=…, factory=MODULE:FACTORY"
    ),
]
STARTS = Setting(
    "start images x'_out: an image file, DICOM, a folder, or noise | noise:gaussian | spiral | spiral:gray |"
    " checkerboard:8x8 | solid:gray",
    check=some_distinct,
)
Starts = Annotated[tuple[str, ...], STARTS]
Pipeline = Annotated[
    str | None,
    Setting(
        "what the product does to an image file before the encoder: resize=SIZE[:bicubic], crop=SIZE and jpeg=QUALITY,"
        " joined by + (resize=256+crop=224); weights, what torchvision or timm declare; or python:MODULE:FACTORY"
    ),
]
NativeSize = Annotated[
    str | None,
    Setting("size of the images that are attacked and enter the pipeline: 300 or 240x320", unset="the encoder's"),
]
Out = Annotated[Path, Setting("output directory; repeat the command to resume", affects="nothing")]
Norm = Annotated[NormName, Setting("norm of the ball")]
Restarts = Annotated[int, Setting("tries of an attack; all but the first start at a random point", check=at_least(1))]
Seed = Annotated[int, Setting("seed for all random draws", check=seed_range)]
BatchSize = Annotated[
    int | None,
    Setting("samples attacked at once", affects="shards", unset="measured at the start", check=at_least(1)),
]
Device = Annotated[
    str | None, Setting("compute device: cpu | cuda | mps", affects="nothing", unset="the best available")
]
DataRoot = Annotated[Path | None, Setting("folder of torchvision data sets", affects="nothing", unset="data")]
Download = Annotated[bool, Setting("let torchvision download missing data sets", affects="nothing")]
Trust = Annotated[bool, Setting("allow model files to execute code", affects="nothing")]
