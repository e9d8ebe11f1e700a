"""What an audit is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.settings.attack import at_least, build, check_ball, check_seed, one_of, some_once, tidy

ATTACKS = ("latent", "informed", "direct")


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What `oodattack audit` is told. Building one checks the values, but for names that torch's side knows.

    Attributes:
        encoder: the classifier, as one string (see `oodattack.encoders.load_encoder`).
        train: in-distribution images to fit on: one folder a class, or a set with labels (see
            `oodattack.images.open_images`).
        test: in-distribution images x_in; each is the target of one attack.
        ood: natural out-of-distribution images, one or more sources.
        start: the initial OOD images x'_out of the attacks, one or more sources, dealt out in turn.
        out: directory of the audit.
        detectors: names of pytorch-ood's detectors, or "all", or "none".
        detector: your own detectors, each as ``MODULE:FACTORY``: a function of a `Classifier` that returns one.
        attacks: which of "latent", "informed" and "direct"; the first is always made, for the others build on it.
        eps: radii of the ball, in pixels of [0, 1]; the verdict is that of the largest.
        norm: "l1", "l2" or "linf".
        steps: gradient evaluations of an attack in floating point; half as many more, at most 50 (beyond 400 steps an
            eighth), go to the 8-bit grid.
        budget: smaller numbers of steps, for the curve of the latent attack against its budget.
        limit: so many x_in, evenly spaced over all.
        ood_limit: so many images of each natural set.
        fit_limit: so many images to fit on; it bounds the memory, which is that of their latents.
        witness: other encoders, never attacked, that say whether x_out is still out-of-distribution.
        layers: layers for the detectors that read several, joined by `+`; by default the last at each resolution.
        seed: of starts and attacks.
        batch_size: samples attacked at once; None measures.
        device: "cpu", "cuda", "mps", ...; None picks one.
        data_root: folder of torchvision data sets.
        download: whether torchvision may fetch data sets that are not there.
        trust: whether model files may execute code.

    >>> AuditSettings(encoder="embedded", train="a", test="b", start=("noise",), out=Path("c")).eps
    (5.0,)
    """

    encoder: str
    train: str
    test: str
    start: tuple[str, ...]
    out: Path
    ood: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ("all",)
    detector: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ATTACKS
    eps: tuple[float, ...] = (5.0,)
    norm: str = "l2"
    steps: int = 100
    budget: tuple[int, ...] = ()
    limit: int = 200
    ood_limit: int = 500
    fit_limit: int = 10000
    witness: tuple[str, ...] = ()
    layers: str | None = None
    seed: int = 0
    batch_size: int | None = None
    device: str | None = None
    data_root: Path | None = None
    download: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        for name in ("detectors", "attacks"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
        object.__setattr__(self, "budget", _whole(_listed(self.budget)))
        tidy(self, "start", "ood", "eps", "out", "detector", "witness")
        check_ball(self.norm, self.eps)
        check_seed(self.seed)
        for name in ("start", "detectors", "attacks"):
            some_once(name, getattr(self, name))
        for name in ("ood", "budget", "witness"):
            if getattr(self, name):
                some_once(name, getattr(self, name))
        for name in self.attacks:
            one_of("attacks", name, ATTACKS)
        for name in ("steps", "batch_size", "ood_limit", "fit_limit"):
            at_least(name, getattr(self, name), 1)
        at_least("limit", self.limit, 2)
        for steps in self.budget:
            if not 1 <= steps < self.steps:
                raise InputError(
                    f"expected budget as whole numbers from 1 to below the {self.steps} steps, got {steps}"
                )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "AuditSettings":
        """Build settings from plain values: strings, numbers and lists as a TOML file or the command line has them.

        Raises:
            InputError: for an unknown name (with the nearest), a missing one, or a value of a wrong kind.
        """
        names = ("detectors", "attacks", "budget")
        listed = {name: tuple(map(str, _listed(values[name]))) for name in names if values.get(name)}
        return build(cls, {**values, **listed})


def _listed(value: Any) -> tuple[Any, ...]:
    """One or several values, texts split at their commas."""
    found: list[Any] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        found += [part.strip() for part in one.split(",")] if isinstance(one, str) else [one]
    return tuple(found)


def _whole(values: tuple[Any, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected budget as whole numbers, got {', '.join(map(str, values))}") from error
