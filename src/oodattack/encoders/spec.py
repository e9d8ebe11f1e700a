"""The string that names an encoder: `KIND:TARGET,key=value,...`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.encoders.messages import nearest
from oodattack.settings.parse import split_options

KINDS = "embedded, torchvision:NAME, timm:NAME, python:MODULE:FACTORY, trained:DIR, file:PATH"


@dataclass(frozen=True)
class Options:
    """Options of an encoder besides its name; None selects the default of the encoder's kind.

    Attributes:
        layer: the layers that make up z, joined by `+`.
        weights: `none`, the name of published weights, or a file.
        size: `(H, W)` in pixels.
        mean: per channel, for pixels in [0, 1].
        std: per channel, for pixels in [0, 1].
        classes: class names, in the order of the model's outputs.
        factory: `MODULE:FACTORY`, a function that builds the model for a file of weights.
        num_classes: 0 removes the classification head, as in timm; z is then the model's output.
        pipeline: what happens to an image file before the network; see `oodattack.encoders.pipeline.make`.
        native_size: `(H, W)` in pixels of the images that enter the pipeline.
    """

    layer: str | None = None
    weights: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    factory: str | None = None
    num_classes: int | None = None
    pipeline: str | None = None
    native_size: tuple[int, int] | None = None

    def refuse(self, kind: str, *names: str) -> None:
        """Raise InputError if one of the named options, which do not apply to `kind`, was given.

        >>> Options(layer="fc").refuse("embedded", "weights", "factory")
        """
        values = asdict(self)
        for name in names:
            if values[name] is not None:
                raise InputError(f"expected no {name}= for {kind}, got {values[name]!r}; remove it")


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Split a spec into kind, target and options.

    Raises:
        InputError: if an option is unknown or given twice.

    >>> parse_spec("torchvision:resnet18,weights=none,layer=layer3+avgpool")
    ('torchvision', 'resnet18', {'weights': 'none', 'layer': 'layer3+avgpool'})
    """
    head, pairs = split_options(spec)
    kind, _, target = head.partition(":")
    options: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.strip().partition("=")
        known = [field.name for field in fields(Options)]
        if key not in known:
            raise InputError(
                f"expected one of the options {', '.join(known)} in {spec!r}, got {key!r}; "
                f"did you mean {nearest(key, known, 1)[0]}?"
            )
        if key in options:
            raise InputError(f"expected {key}= once, got it twice in {spec!r}")
        options[key] = value
    return kind.strip(), target.strip(), options


def parse_size(value: object) -> tuple[int, int]:
    """Parse 224, `224`, `32x48` or (32, 48) to `(H, W)`.

    Raises:
        InputError: for anything else, or a side below 1.

    >>> parse_size("32x48"), parse_size(224)
    ((32, 48), (224, 224))
    """
    sides = str(value).lower().split("x") if isinstance(value, (str, int)) else value
    if isinstance(sides, Sequence) and len(sides) in (1, 2):
        try:
            height, width = int(sides[0]), int(sides[-1])
        except (TypeError, ValueError):
            height = width = 0
        if height > 0 and width > 0:
            return height, width
    raise InputError(f"expected size as 224 or 32x48 (height x width, pixels), got {value!r}")


def parse_num_classes(value: int | str) -> int:
    """0, the only number of classes that can be chosen: no classification head.

    Raises:
        InputError: for any other number.

    >>> parse_num_classes("0")
    0
    """
    if str(value).strip() != "0":
        raise InputError(f"expected num_classes=0, which removes the classification head, got {value!r}")
    return 0


def parse_channels(key: str, value: str | Sequence[float]) -> tuple[float, ...]:
    """Parse `0.485/0.456/0.406` or a sequence to three numbers, one per channel.

    Raises:
        InputError: unless there are three finite numbers, which for `std` must be positive.

    >>> parse_channels("mean", "0.485/0.456/0.406")
    (0.485, 0.456, 0.406)
    """
    try:
        numbers = tuple(map(float, value.split("/") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    positive = key != "std" or all(number > 0 for number in numbers)
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or not positive:
        kind = "positive numbers" if key == "std" else "numbers"
        raise InputError(f"expected {key} as three {kind} like 0.485/0.456/0.406, got {value!r}")
    return numbers


def parse_classes(value: str | Sequence[str]) -> tuple[str, ...]:
    """Class names from a sequence, or from a text file with one name per line.

    Raises:
        InputError: if the file cannot be read.

    >>> parse_classes(["cat", "dog"])
    ('cat', 'dog')
    """
    if not isinstance(value, str):
        return tuple(value)
    try:
        return tuple(Path(value).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"expected classes= to be a text file with one class name per line, got {value!r}: {error}"
        ) from error
