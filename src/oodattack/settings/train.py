"""What `oodattack train` is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.settings.attack import at_least, build, check_ball, check_seed, one_of, tidy

METHODS = ("plain", "outlier-exposure", "confidence", "bottleneck")
AUGMENTS = ("none", "crop", "flip")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What a network is trained on, and how. Building one checks the values.

    Attributes:
        train: labelled images: one folder a class, or a data set that tells its classes.
        out: directory of the trained network; `--encoder trained:DIR` uses it.
        test: labelled images to measure the accuracy on.
        method: "plain" (cross-entropy), "outlier-exposure" (Hendrycks et al. 2019), "confidence" (Lee et al. 2018, the
            GAN variant) or "bottleneck" (Alemi et al. 2017).
        outliers: images that are no class's, for outlier exposure and for the rounds.
        network: resnet8, resnet14, resnet20, ...
        size: side of the images in pixels.
        epochs: passes over the training images.
        batch_size: images a step.
        rate: largest learning rate (SGD with Nesterov momentum, one cycle).
        weight: of the outliers' loss, or of the bottleneck's rate.
        augment: "crop" (up to an eighth of the side in each direction), "flip", both, or "none".
        rounds: of attacking the network and training it on with what was found as outliers.
        round_epochs: epochs of each round.
        round_images: images attacked for each round, and as many again to measure with.
        eps: radius of the rounds' L2 ball, in pixels of [0, 1].
        seed: of the weights, the order and the draws.
        device: "cpu", "cuda", "mps", ...; None picks one.
        data_root: folder of torchvision data sets.
        download: whether torchvision may fetch data sets that are not there.
        tensorboard: folder for its event files (needs tensorboard); None for none.

    >>> TrainSettings(train="a", out=Path("b")).method
    'plain'
    """

    train: str
    out: Path
    test: str | None = None
    method: str = "plain"
    outliers: tuple[str, ...] = ()
    network: str = "resnet20"
    size: int = 32
    epochs: int = 15
    batch_size: int = 128
    rate: float = 0.2
    weight: float | None = None
    augment: tuple[str, ...] = ("crop",)
    rounds: int = 0
    round_epochs: int = 3
    round_images: int = 200
    eps: tuple[float, ...] = (5.0,)
    seed: int = 0
    device: str | None = None
    data_root: Path | None = None
    download: bool = False
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        tidy(self, "out", "outliers", "augment", "eps")
        one_of("method", self.method, METHODS)
        for name in self.augment:
            one_of("augment", name, AUGMENTS)
        check_ball("l2", self.eps)
        if len(self.eps) != 1:
            raise InputError(f"expected one eps, got {len(self.eps)}")
        for name in ("epochs", "round_epochs", "round_images"):
            at_least(name, getattr(self, name), 1)
        at_least("batch_size", self.batch_size, 2)
        at_least("size", self.size, 8)
        at_least("rounds", self.rounds, 0)
        check_seed(self.seed)
        if not 0 < self.rate < 100:
            raise InputError(f"expected a learning rate above 0 and below 100, got {self.rate:g}")
        if self.weight is not None and not 0 <= self.weight < 1e6:
            raise InputError(f"expected weight from 0 to below 1e6, got {self.weight:g}")
        if self.method == "confidence" and self.size != 32:
            raise InputError(f"expected size 32 for confidence, whose GAN makes images of 32x32, got {self.size}")
        if self.rounds and (self.test is None or self.method not in ("plain", "outlier-exposure")):
            raise InputError(
                "expected --rounds with --test and --method plain or outlier-exposure, got"
                f" {'no --test' if self.test is None else self.method}"
            )
        if not self.outliers and (self.method == "outlier-exposure" or self.rounds):
            what = "outlier-exposure" if self.method == "outlier-exposure" else "rounds"
            raise InputError(f"missing --outliers; {what} needs images that are no class's")

    @property
    def loss_weight(self) -> float:
        """That given, or the papers' for each method: 0.5, 1, 0.001."""
        defaults = {"outlier-exposure": 0.5, "confidence": 1.0, "bottleneck": 1e-3}
        return defaults.get(self.method, 0.5) if self.weight is None else self.weight

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "TrainSettings":
        """Build settings from plain values: strings, numbers and lists as a TOML file or the command line has them.

        Raises:
            InputError: for an unknown name (with the nearest), a missing one, or a value of a wrong kind.
        """
        return build(cls, values)
