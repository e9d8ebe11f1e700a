"""Make a pipeline from one string."""

from collections.abc import Callable

from torch import nn

from oodattack.core.errors import InputError
from oodattack.encoders.messages import reason
from oodattack.encoders.own import here_importable, import_function
from oodattack.encoders.pipeline.base import Pipeline
from oodattack.encoders.pipeline.chain import Chain
from oodattack.encoders.pipeline.crop import Crop
from oodattack.encoders.pipeline.jpeg import Jpeg
from oodattack.encoders.pipeline.own import OwnFunction, OwnModule
from oodattack.encoders.pipeline.resize import FILTERS, Resize
from oodattack.encoders.pipeline.stage import Stage
from oodattack.encoders.spec import parse_size

PYTHON = "python:"


def parse_pipeline(spec: str) -> Pipeline:
    """Make a pipeline from a chain of stages, or from the user's factory.

    - `resize=256`: resize the shorter side; `resize=240x320`: height and width; `resize=256:bicubic`: with another
      filter than bilinear.
    - `crop=224`, `crop=240x320`: crop the centre.
    - `jpeg=90`: compress with this quality.
    - `python:MODULE:FACTORY`: what the function returns: a module is called with (B, 3, H, W) in [0, 1], and any other
      callable with an RGB image of Pillow (`OwnModule`, `OwnFunction`).

    Args:
        spec: one stage, several joined by `+` in the order in which they are applied, or the user's factory.

    Raises:
        InputError: if a stage is unknown or its value invalid, or the factory fails.

    >>> parse_pipeline("resize=256+crop=224+jpeg=90").name
    'resize=256:bilinear+crop=224+jpeg=90'
    """
    if spec.startswith(PYTHON):
        return _own(spec)
    return Chain([_stage(part.strip(), spec) for part in spec.split("+")])


def _stage(text: str, spec: str) -> Stage:
    key, _, value = text.partition("=")
    make = _STAGES.get(key.strip())
    if make is None or not value:
        raise InputError(
            f"expected a pipeline of resize=SIZE[:{'|'.join(FILTERS)}], crop=SIZE and jpeg=QUALITY joined by +,"
            f" weights, or {PYTHON}MODULE:FACTORY, got {text!r} in {spec!r}"
        )
    return make(value.strip())


def _resize(value: str) -> Stage:
    size, _, name = value.partition(":")
    sides = parse_size(size)
    if name not in ("", *FILTERS):
        raise InputError(f"expected the filter of resize as one of {', '.join(FILTERS)}, got {name!r}")
    return Resize(sides if "x" in size.lower() else sides[:1], name or FILTERS[0])


def _jpeg(value: str) -> Stage:
    if not value.isdecimal() or not 1 <= int(value) <= 100:
        raise InputError(f"expected the quality of jpeg from 1 to 100, got {value!r}")
    return Jpeg(int(value))


_STAGES: dict[str, Callable[[str], Stage]] = {
    "resize": _resize,
    "crop": lambda value: Crop(parse_size(value)),
    "jpeg": _jpeg,
}


def _own(spec: str) -> Pipeline:
    target = spec.removeprefix(PYTHON)
    factory = import_function(target)
    with here_importable():
        try:
            made = factory()
        except Exception as error:
            raise InputError(f"expected {target}() to make a pipeline, got {reason(error)}") from error
    if isinstance(made, nn.Module):
        return OwnModule(made, spec)
    if not callable(made):
        raise InputError(f"expected {target}() to return a module or a function, got {type(made).__name__}")
    return OwnFunction(made, spec)
