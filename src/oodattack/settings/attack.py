"""Settings: one frozen dataclass a command, filled alike by the command line, a TOML file and Python.

Needs no torch, so that wrong settings are told at once.
"""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from oodattack.core.errors import InputError, did_you_mean

NORMS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
NORM_NAMES = {"l1": "L1", "l2": "L2", "linf": "Linf"}


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What `oodattack attack` is told. Building one checks the values, but for names that torch's side knows.

    Attributes:
        encoder: f, as one string (see `oodattack.encoders.load_encoder`).
        images: the in-distribution images x_in (see `oodattack.images.open_images`).
        start: the initial OOD images x'_out, one or more sources (see `oodattack.images.open_starts`).
        out: directory of the run.
        eps: radii of the ball, in pixels of [0, 1]; every x_in is attacked once for each start and eps.
        norm: "l1", "l2" or "linf".
        steps: gradient evaluations per try, in floating point.
        method: "fast", "paper" or "plain".
        step_size: alpha; None for the method's own.
        restarts: number of tries for samples above the tolerance.
        tolerance: MAPE (a fraction) at which a sample is finished.
        grid_steps: gradient evaluations per try after these, on the 8-bit grid; None for the method's own number.
        gradient: "autograd" or "spsa".
        seed: every sample's own seed is made of this one, its x_in, start and eps.
        limit: attack at most that many images, evenly spaced over all; None for all.
        start_order: how several images of one start source are dealt out, "cycle" or "sample".
        batch_size: samples attacked at once, and rows of a shard; None measures. Halved where memory is too small.
        device: "cpu", "cuda", "mps", ...; None picks one.
        data_root: folder of torchvision data sets.
        download: whether torchvision data sets may be downloaded.
        trust: whether model files may execute code.
        strict: stop at the first image that cannot be decoded, before anything is attacked.
        png: folder for plain PNG files of every x_out as well.

    Raises:
        InputError: naming the setting, what was expected and what was given.

    >>> AttackSettings(encoder="embedded", images="photos", start=("noise",), out=Path("run")).eps
    (5.0,)
    """

    encoder: str
    images: str
    start: tuple[str, ...]
    out: Path
    eps: tuple[float, ...] = (5.0,)
    norm: str = "l2"
    steps: int = 300
    method: str = "fast"
    step_size: float | None = None
    restarts: int = 1
    tolerance: float = 0.0
    grid_steps: int | None = None
    gradient: str = "autograd"
    seed: int = 0
    limit: int | None = None
    start_order: typing.Literal["cycle", "sample"] = "cycle"
    batch_size: int | None = None
    device: str | None = None
    data_root: Path | None = None
    download: bool = False
    trust: bool = False
    strict: bool = False
    png: Path | None = None

    def __post_init__(self) -> None:
        tidy(self, "start", "eps", "out")
        one_of("start_order", self.start_order, ("cycle", "sample"))
        some_once("start", self.start)
        check_ball(self.norm, self.eps)
        for name in ("steps", "restarts", "limit", "batch_size"):
            at_least(name, getattr(self, name), 1)
        at_least("grid_steps", self.grid_steps, 0)
        if self.grid_steps and self.gradient == "spsa":
            raise InputError(f"expected no grid_steps with gradient spsa, which rounds, got {self.grid_steps}")
        check_seed(self.seed)
        if not 0 <= self.tolerance < math.inf:
            raise InputError(f"expected a finite tolerance >= 0 (a MAPE: 0.001 is 0.1 %), got {self.tolerance:g}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"expected a positive step_size, got {self.step_size:g}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "AttackSettings":
        """Build settings from plain values: strings, numbers and lists as a TOML file or the command line has them.

        Raises:
            InputError: for an unknown name (with the nearest), a missing one, or a value of a wrong kind.

        >>> AttackSettings.of({"encoder": "embedded", "images": "a", "start": "noise", "out": "b", "eps": "8/255"}).eps
        (0.03137254901960784,)
        """
        return build(cls, values)


T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of settings from plain values.

    Raises:
        InputError: for an unknown name (with the nearest), a missing one, or a value of a wrong kind.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            hint = did_you_mean(name, fields) or f"; there are {', '.join(fields)}"
            raise InputError(f"unknown setting {name!r}{hint}")
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and values.get(n) in (None, "", ())]
    if missing:
        flags = ", ".join(f"--{name}" for name in missing)
        raise InputError(f"missing {flags}; give it on the command line or in the --config file")
    return kind(**{name: _convert(fields[name], value) for name, value in values.items() if value is not None})


def plain(value: Any) -> Any:
    """A setting as JSON holds it.

    >>> plain((Path("a"), math.inf))
    ['a', 'inf']
    """
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return str(value) if isinstance(value, Path) else value


def tidy(settings: Any, *names: str) -> None:
    """Bring fields that Python may be given loosely to their type: one start for a tuple, a text for a path."""
    for field in dataclasses.fields(settings):
        if field.name in names:
            object.__setattr__(settings, field.name, _convert(field, getattr(settings, field.name)))


def check_ball(norm: str, radii: Sequence[float]) -> None:
    """Raise for an unknown norm, or radii that are none.

    Raises:
        InputError: naming the value.

    >>> check_ball("l2", (1.0, 5.0))
    """
    one_of("norm", norm, tuple(NORMS))
    some_once("eps", radii)
    for eps in radii:
        if not eps >= 0:
            raise InputError(f"expected eps >= 0, got {eps:g}")
        if norm == "linf" and 1 < eps < math.inf:
            raise InputError(
                f"expected eps in [0, 1] for linf, got {eps:g}: pixels are in [0, 1]; give {eps:g}/255 if you"
                " mean levels of 8 bits, or inf for no bound"
            )


def check_seed(seed: int) -> None:
    """Raise unless a seed fits into what holds it.

    Raises:
        InputError: naming the value.

    >>> check_seed(0)
    """
    at_least("seed", seed, 0)
    if seed >= 2**63:
        raise InputError(f"expected seed below 2^63, got {seed}")


def parse_eps(text: str | float) -> float:
    """A radius: a number, a fraction such as ``8/255``, or ``inf``.

    Raises:
        InputError: if it is none of them.

    >>> parse_eps("8/255") == 8 / 255, parse_eps("inf")
    (True, inf)
    """
    numerator, slash, denominator = str(text).partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if math.isnan(value) or isinstance(text, bool):
        raise InputError(f"expected eps as a number, a fraction such as 8/255, or inf, got {text!r}")
    return value


def load_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by the names of the flags: ``step-size`` and ``step_size`` are one.

    Raises:
        InputError: if it cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "attack.toml").write_text("eps = [1, '8/255']")
    ...     load_config(Path(folder, "attack.toml"))
    {'eps': [1, '8/255']}
    """
    try:
        found = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the settings in {path}: {error}; expected TOML lines such as eps = 5") from error
    settings = {name.replace("-", "_"): value for name, value in found.items()}
    if len(settings) < len(found):
        raise InputError(f"expected each setting once in {path}, got {', '.join(found)}")
    return settings


def _convert(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """A plain value as the field's type."""
    if field.name == "eps":
        return tuple(parse_eps(eps) for eps in _split(value))
    if typing.get_origin(field.type) is tuple:
        texts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(text, str | Path) for text in texts):
            raise InputError(f"expected {field.name} as a text or a list of them, got {value!r}")
        return tuple(map(str, texts))
    kind = next((kind for kind in _KIND_NAMES if kind is field.type or kind in typing.get_args(field.type)), str)
    accepted = {float: (int, float), Path: (str, Path), str: (str, Path)}.get(kind, (kind,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"expected {field.name} as {_KIND_NAMES[kind]}, got {value!r}")
    return kind(value)


_KIND_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    str: "a text",
}


def _split(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list | tuple) else [value]


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise unless a value is one of those allowed.

    Raises:
        InputError: with the nearest.

    >>> one_of("norm", "l2", ["l1", "l2"])
    """
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise InputError(f"expected {name} to be one of {', '.join(allowed)}, got {value!r}{hint}")


def some_once(name: str, values: Sequence[Any]) -> None:
    """Raise unless there is at least one value, and none twice.

    Raises:
        InputError: with the values.

    >>> some_once("eps", [1, 5])
    """
    if not values:
        raise InputError(f"expected at least one {name}, got none")
    if len(set(values)) != len(values):
        raise InputError(f"expected each {name} once, got {', '.join(map(str, values))}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raise if a whole number, where there is one, is too small.

    Raises:
        InputError: naming the value.

    >>> at_least("limit", None, 1)
    """
    if value is not None and value < least:
        raise InputError(f"expected {name} as a whole number of at least {least}, got {value}")
