"""Settings of `oodattack audit`."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from oodattack.core.errors import InputError
from oodattack.settings.ball import check_ball
from oodattack.settings.base import Settings
from oodattack.settings.checks import at_least, distinct, some_distinct
from oodattack.settings.field import Setting
from oodattack.settings.requirement import check_measured, check_requirements, parse_requirement
from oodattack.settings.shared import (
    EPS,
    STARTS,
    STEPS,
    BatchSize,
    DataRoot,
    Device,
    Download,
    NativeSize,
    Norm,
    Out,
    Pipeline,
    Restarts,
    Seed,
    Trust,
)

AttackName = Literal["latent", "informed", "direct", "aimed"]
ATTACKS: tuple[AttackName, ...] = ("latent", "informed", "direct", "aimed")


@dataclass(frozen=True, kw_only=True)
class AuditSettings(Settings):
    """Settings of `oodattack audit`; the verdict is the one at the largest eps.

    Detectors, attacks, radii, budgets, sets of starts and witnesses do not affect results that are already on disk:
    more of them can be added to a finished audit.

    >>> from pathlib import Path
    >>> AuditSettings(encoder="embedded", train="a", test="b", start=("noise",), out=Path("c")).eps
    (5.0,)
    """

    encoder: Annotated[
        str,
        Setting(
            "the network that detectors are fitted on, named as in `oodattack attack`: a classifier with a linear last"
            " layer, a bare encoder (`num_classes=0`), or a model of images with a score of its own"
        ),
    ]
    train: Annotated[
        str,
        Setting("in-distribution images to fit the detectors on: one folder per class, or a data set with labels"),
    ]
    test: Annotated[
        str,
        Setting(
            "in-distribution images not used for fitting: some are the targets x_in of the attacks; others, held out,"
            " set the thresholds"
        ),
    ]
    out: Out
    start: Annotated[tuple[str, ...], replace(STARTS, affects="nothing", check=distinct)] = ()
    ood: Annotated[
        tuple[str, ...],
        Setting(
            "a set of natural out-of-distribution images; attacks start from them too",
            affects="nothing",
            check=distinct,
        ),
    ] = ()
    detectors: Annotated[
        tuple[str, ...],
        Setting(
            "detectors to audit: all | none | names of the catalogue",
            affects="nothing",
            commas=True,
            check=some_distinct,
        ),
    ] = ("all",)
    detector: Annotated[tuple[str, ...], Setting("your own detector, as MODULE:FACTORY", affects="nothing")] = ()
    model: Annotated[
        tuple[str, ...],
        Setting(
            "a flow, a background model or a score network that `oodattack train` saved, as trained:DIR, for the"
            " detectors that are built on a density; several flows are the ensemble of WAIC, and the first is that of"
            " the other detectors",
            check=distinct,
        ),
    ] = ()
    dequantise: Annotated[
        int,
        Setting(
            "draws of uniform noise over which a flow's log-likelihood is averaged; 0 takes the middle of each pixel's"
            " interval instead",
            check=at_least(0),
        ),
    ] = 0
    pipeline: Pipeline = None
    native_size: NativeSize = None
    jointly: Annotated[
        tuple[str, ...],
        Setting(
            "detectors to attack as one that rejects an image if any of them does: all | names",
            affects="nothing",
            commas=True,
            check=distinct,
        ),
    ] = ()
    attacks: Annotated[
        tuple[AttackName, ...],
        Setting(
            "attacks to run (latent always runs, since others build on it; aimed needs direct)",
            affects="nothing",
            commas=True,
            check=some_distinct,
        ),
    ] = ATTACKS
    eps: Annotated[tuple[float, ...], replace(EPS, affects="nothing")] = (5.0,)
    norm: Norm = "l2"
    steps: Annotated[int, replace(STEPS, affects="nothing")] = 100
    budget: Annotated[
        tuple[int, ...],
        Setting(
            "smaller numbers of steps at which all attacks are run as well, to see whether more steps help: 10,30",
            affects="nothing",
            commas=True,
            check=distinct,
        ),
    ] = ()
    restarts: Restarts = 1
    limit: Annotated[
        int,
        Setting(
            "number of targets x_in, drawn at random; each is attacked from every set of starts", check=at_least(2)
        ),
    ] = 100
    held_out: Annotated[
        int, Setting("number of in-distribution images, not attacked, that set the thresholds", check=at_least(2))
    ] = 1000
    ood_limit: Annotated[
        int,
        Setting(
            "number of images from each set of starts, scored before the attack; attacks take turns", check=at_least(1)
        ),
    ] = 500
    fit_limit: Annotated[int, Setting("number of images to fit on; memory grows with it", check=at_least(1))] = 10000
    witness: Annotated[
        tuple[str, ...],
        Setting(
            "another encoder, not attacked, to judge whether x_out is still out-of-distribution",
            affects="nothing",
            check=distinct,
        ),
    ] = ()
    layers: Annotated[
        str | None,
        Setting("layers for detectors that read several, joined by +", unset="the last at each resolution"),
    ] = None
    require: Annotated[
        tuple[str, ...],
        Setting(
            "fail unless this holds under attack: [DETECTOR:]auroc[SET]>=NUMBER@NORM:EPS, or pass<=… of starts that"
            " were rejected; the unfavourable end of the 95 % interval counts",
            affects="nothing",
            check=check_requirements,
        ),
    ] = ()
    seed: Seed = 0
    batch_size: BatchSize = None
    device: Device = None
    data_root: DataRoot = None
    download: Download = False
    trust: Trust = False

    @property
    def layer_names(self) -> tuple[str, ...] | None:
        """The names in ``layers``."""
        return None if self.layers is None else tuple(self.layers.split("+"))

    def check(self) -> None:
        """Check that there are starts, the ball, the requirements, and that budgets are below the number of steps."""
        if not (self.start or self.ood):
            raise InputError("expected images to start from, got none; name some by --ood or --start")
        if "aimed" in self.attacks and "direct" not in self.attacks:
            raise InputError("expected the attack direct with aimed, which builds on it, got aimed alone; add direct")
        check_ball(self.norm, self.eps)
        for steps in self.budget:
            if not 1 <= steps < self.steps:
                raise InputError(f"expected budget >= 1 and below the {self.steps} steps, got {steps}")
        for text in self.require:
            check_measured(parse_requirement(text), self.norm, self.eps)
