"""Settings of `oodattack attack`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from oodattack.core.errors import InputError
from oodattack.settings.ball import check_ball
from oodattack.settings.base import Settings
from oodattack.settings.checks import at_least, positive
from oodattack.settings.field import Setting
from oodattack.settings.shared import (
    EPS,
    STEPS,
    BatchSize,
    DataRoot,
    Device,
    Download,
    Encoder,
    NativeSize,
    Norm,
    Out,
    Pipeline,
    Seed,
    Starts,
    Trust,
)

MethodName = Literal["fast", "paper", "plain"]
GradientName = Literal["autograd", "spsa"]


@dataclass(frozen=True, kw_only=True)
class AttackSettings(Settings):
    """Settings of `oodattack attack`: every x_in is attacked once from each start and for each eps.

    >>> AttackSettings(encoder="embedded", images="photos", start=("noise",), out=Path("run")).eps
    (5.0,)
    """

    encoder: Encoder
    images: Annotated[
        str,
        Setting(
            "in-distribution images x_in: a folder, an image, a .txt list, a glob, a Parquet file or folder, a .npy or"
            " idx file, or torchvision:NAME[:SPLIT]"
        ),
    ]
    start: Starts
    out: Out
    eps: Annotated[tuple[float, ...], EPS] = (5.0,)
    norm: Norm = "l2"
    steps: Annotated[int, STEPS] = 300
    method: Annotated[MethodName, Setting("attack method")] = "fast"
    step_size: Annotated[
        float | None, Setting("step size alpha, in pixels", unset="set by the method", check=positive)
    ] = None
    restarts: Annotated[int, Setting("tries for samples above the tolerance", check=at_least(1))] = 1
    tolerance: Annotated[float, Setting("MAPE at which a sample is finished; 0.001 is 0.1 %")] = 0.0
    grid_steps: Annotated[
        int | None,
        Setting(
            "additional gradient evaluations per try, on the 8-bit grid",
            unset="for fast, half of --steps up to 50, or an eighth beyond 400 steps; otherwise 0",
            check=at_least(0),
        ),
    ] = None
    gradient: Annotated[GradientName, Setting("source of gradients (spsa needs only forward passes)")] = "autograd"
    seed: Seed = 0
    pipeline: Pipeline = None
    native_size: NativeSize = None
    limit: Annotated[
        int | None,
        Setting("number of x_in, evenly spaced over the collection", unset="all", check=at_least(1)),
    ] = None
    start_order: Annotated[
        Literal["cycle", "sample"], Setting("how the images of a start are assigned to the x_in (in turn or at random)")
    ] = "cycle"
    batch_size: BatchSize = None
    device: Device = None
    data_root: DataRoot = None
    download: Download = False
    trust: Trust = False
    strict: Annotated[bool, Setting("stop at the first image that cannot be decoded", affects="nothing")] = False
    png: Annotated[
        Path | None, Setting("folder to which every x_out is also written as a PNG file", affects="nothing")
    ] = None

    def check(self) -> None:
        """Check the ball and the tolerance, and that SPSA is not combined with steps on the grid."""
        check_ball(self.norm, self.eps)
        if self.grid_steps and self.gradient == "spsa":
            raise InputError(
                f"expected no grid_steps with gradient spsa, which rounds instead, got {self.grid_steps}; omit it"
            )
        if not 0 <= self.tolerance < math.inf:
            raise InputError(f"expected a finite tolerance >= 0 (a MAPE: 0.001 is 0.1 %), got {self.tolerance:g}")
