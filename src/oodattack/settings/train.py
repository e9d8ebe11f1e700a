"""Settings of `oodattack train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from oodattack.core.errors import InputError
from oodattack.settings.ball import check_ball
from oodattack.settings.base import Settings
from oodattack.settings.checks import at_least
from oodattack.settings.field import Setting
from oodattack.settings.shared import DataRoot, Device, Download, Out, Seed

Objective = Literal["classification", "likelihood", "score"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of `oodattack train`.

    The objective "classification" trains a classifier by one of four methods: "plain" (cross-entropy),
    "outlier-exposure" (Hendrycks et al. 2019), "confidence" (Lee et al. 2018, the GAN variant) and "bottleneck" (Alemi
    et al. 2017). "likelihood" trains a flow and "score" a score network (denoising score matching), without labels.

    >>> TrainSettings(train="a", out=Path("b")).method
    'plain'
    """

    train: Annotated[
        str,
        Setting(
            "training images; for classification labelled ones: one folder per class, or a data set with labels",
        ),
    ]
    test: Annotated[
        str | None,
        Setting(
            "labelled images to measure the accuracy on; for the objectives likelihood and score, held-out images that"
            " decide which epoch is the best, by default a tenth of the training images",
            affects="nothing",
        ),
    ] = None
    out: Out
    objective: Annotated[Objective, Setting("what the network learns")] = "classification"
    method: Annotated[Literal["plain", "outlier-exposure", "confidence", "bottleneck"], Setting("training method")] = (
        "plain"
    )
    outliers: Annotated[
        tuple[str, ...], Setting("outlier images, which belong to no class, for outlier exposure and the rounds")
    ] = ()
    network: Annotated[
        str,
        Setting(
            "architecture: resnet8 | resnet14 | resnet20 | …; for likelihood glow-k4-l3-w64 (steps, levels, width);"
            " for score unet-w32 (width)"
        ),
    ] = "resnet20"
    size: Annotated[int, Setting("side of the images, in pixels", check=at_least(8))] = 32
    epochs: Annotated[int, Setting("passes over the training images", check=at_least(1))] = 15
    batch_size: Annotated[int, Setting("images per optimizer step", check=at_least(2))] = 128
    rate: Annotated[
        float | None,
        Setting(
            "peak learning rate of the schedule: one cycle for classification, else a warm-up and a cosine",
            unset="0.2 for classification (SGD with Nesterov momentum), otherwise 0.001 (Adam)",
        ),
    ] = None
    weight: Annotated[
        float | None,
        Setting(
            "weight of the second loss term (outliers, confidence, or bottleneck rate)",
            unset="as published: outlier-exposure 0.5, confidence 1, bottleneck 0.001",
        ),
    ] = None
    augment: Annotated[
        tuple[Literal["none", "crop", "flip"], ...],
        Setting(
            "random augmentation, by default crop for classification and none otherwise (crops shift the image by up to"
            " an eighth of its side)",
            commas=True,
        ),
    ] = ()
    mutate: Annotated[
        float,
        Setting(
            "share of pixel values to replace by random ones, which makes a flow the background model of the"
            " likelihood ratio (Ren et al. 2019)"
        ),
    ] = 0.0
    rounds: Annotated[
        int,
        Setting(
            "number of rounds that attack the network and train it further on the images found",
            affects="nothing",
            check=at_least(0),
        ),
    ] = 0
    round_epochs: Annotated[int, Setting("epochs per round", affects="rounds", check=at_least(1))] = 3
    round_images: Annotated[
        int,
        Setting(
            "images attacked in each round, and the same number again to measure on",
            affects="rounds",
            check=at_least(1),
        ),
    ] = 200
    eps: Annotated[
        float, Setting("radius of the L2 ball of the rounds, in pixels of [0, 1]: 5 or 8/255", affects="rounds")
    ] = 5.0
    seed: Seed = 0
    device: Device = None
    data_root: DataRoot = None
    download: Download = False
    tensorboard: Annotated[Path | None, Setting("folder for TensorBoard event files", affects="nothing")] = None

    def check(self) -> None:
        """Check the ball and the numbers, and that the method and the rounds have the images they need."""
        check_ball("l2", [self.eps])
        if not 0 < self.peak_rate < 100:
            raise InputError(f"expected rate above 0 and below 100, got {self.peak_rate:g}")
        if not 0 <= self.mutate < 1:
            raise InputError(f"expected mutate to be at least 0 and below 1, got {self.mutate:g}")
        if self.weight is not None and not 0 <= self.weight < 1e6:
            raise InputError(f"expected weight >= 0 and below 1e6, got {self.weight:g}")
        self._check_objective()
        if self.method == "confidence" and self.size != 32:
            raise InputError(f"expected size 32 for confidence, whose GAN makes images of 32x32, got {self.size}")
        if self.rounds and (self.test is None or self.method not in ("plain", "outlier-exposure")):
            raise InputError(
                "expected --rounds with --test and --method plain or outlier-exposure, got"
                f" {'no --test' if self.test is None else self.method}"
            )
        if not self.outliers and (self.method == "outlier-exposure" or self.rounds):
            what = "outlier-exposure" if self.method == "outlier-exposure" else "rounds"
            raise InputError(f"missing --outliers; {what} needs images that belong to no class")

    def _check_objective(self) -> None:
        """Check that the network and the other settings are of the objective."""
        kind = {"classification": "resnet", "likelihood": "glow-", "score": "unet-"}[self.objective]
        if not self.network.startswith(kind):
            example = {"resnet": "resnet20", "glow-": "glow-k4-l3-w64", "unet-": "unet-w32"}[kind]
            raise InputError(
                f"expected a network such as {example} for the objective {self.objective}, got {self.network!r}; give"
                f" --network {example}, or another --objective"
            )
        if self.mutate and self.objective != "likelihood":
            raise InputError(f"expected mutate with the objective likelihood, got it with {self.objective}")
        if self.objective != "classification":
            unused = {"method": self.method != "plain", "outliers": self.outliers, "rounds": self.rounds}
            given = [name for name, is_given in unused.items() if is_given]
            if given:
                raise InputError(f"expected no --{given[0]} for the objective {self.objective}, which has no classes")

    @property
    def peak_rate(self) -> float:
        """The given learning rate, or that of the objective: 0.2 for classification, 0.001 otherwise."""
        return (0.2 if self.objective == "classification" else 1e-3) if self.rate is None else self.rate

    @property
    def augmentation(self) -> tuple[str, ...]:
        """The given augmentation, or that of the objective: crop for classification, none otherwise."""
        return self.augment or (("crop",) if self.objective == "classification" else ())

    @property
    def loss_weight(self) -> float:
        """The given weight, or the published one of each method: 0.5, 1, 0.001."""
        defaults = {"outlier-exposure": 0.5, "confidence": 1.0, "bottleneck": 1e-3}
        return defaults.get(self.method, 0.5) if self.weight is None else self.weight
