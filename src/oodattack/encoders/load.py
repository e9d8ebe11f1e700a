"""Load any encoder from one string."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from oodattack.core.errors import InputError
from oodattack.encoders.device import pick_device
from oodattack.encoders.encoder import Encoder
from oodattack.encoders.headless import without_head
from oodattack.encoders.layers import OUTPUT
from oodattack.encoders.own import from_file, from_python
from oodattack.encoders.pipeline.base import Pipeline
from oodattack.encoders.source import Source
from oodattack.encoders.spec import (
    KINDS,
    Options,
    parse_channels,
    parse_classes,
    parse_num_classes,
    parse_size,
    parse_spec,
)
from oodattack.encoders.trained import from_training
from oodattack.encoders.zoo import from_package, from_timm, from_torchvision


def load_encoder(
    spec: str,
    *,
    layer: str | None = None,
    weights: str | None = None,
    size: int | tuple[int, int] | str | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | str | None = None,
    classes: Sequence[str] | str | None = None,
    factory: str | None = None,
    num_classes: int | None = None,
    pipeline: str | None = None,
    native_size: int | tuple[int, int] | str | None = None,
    trust: bool = False,
    device: str | None = None,
) -> Encoder:
    """Load an encoder by name and freeze its weights; only images receive gradients.

    - `embedded`: EfficientNet-Lite0 with ImageNet weights, from the `demo` extra, without a download.
    - `torchvision:NAME`: a torchvision classifier, by default with its best published weights.
    - `timm:NAME`: a timm model (`timm` extra), by default with its pretrained weights; `timm:hf-hub:OWNER/NAME@COMMIT`
      from the Hugging Face hub, `timm:local-dir:PATH` from a folder with the same files.
    - `python:MODULE:FACTORY`: the `nn.Module` that the function returns; an `Encoder` is used unchanged.
    - `trained:DIR`: the network that `oodattack train` wrote to a directory.
    - `file:PATH`: a `.pt2`, TorchScript or pickled model (needs `trust`), or a state dict (needs `factory`).

    Args:
        spec: one of these; the options `layer` to `native_size` may follow: `torchvision:resnet18,weights=none`.
        layer: the layers that make up z, joined by `+`; see `Encoder`.
        weights: `none` (random), the name of published weights, or a file (`.pth`, `.safetensors`, ...).
        size: input size in pixels: 224, `224`, `32x48` or (32, 48), height first.
        mean: per channel, for pixels in [0, 1]: three numbers, or `0.485/0.456/0.406`.
        std: likewise.
        classes: class names, or a text file with one name per line.
        factory: `MODULE:FACTORY`, a function that builds the model whose state dict is in the file.
        num_classes: 0 removes the classification head, as in timm: a bare encoder, whose z is the model's output.
        pipeline: what the product does to an image file before the network: `resize=256+crop=224`, `jpeg=90`, a user's
            callable (see `oodattack.encoders.pipeline.parse`), or `weights` for what torchvision or timm declare for
            the weights. It becomes the first layer of f, whose images then have the native size.
        native_size: size of the images that enter the pipeline, like `size`; by default that of the network's input.
        trust: allow formats that can execute code when loaded. This cannot be set from within `spec`.
        device: see `pick_device`.

    Returns:
        The encoder in eval mode, on the device.

    Raises:
        InputError: if any of these is invalid or missing, or a download fails.

    >>> f = load_encoder("python:torchvision.models:squeezenet1_1,size=32", layer="features", device="cpu")
    >>> f.layer, f.latent_dim
    ('features', 512)
    """
    kind, target, in_spec = parse_spec(spec)

    def once(key: str, value: Any, parse: Callable[[Any], Any] = str) -> Any:
        if value is not None and key in in_spec:
            raise InputError(f"expected {key} once, got it in {spec!r} and as an option")
        found = in_spec.get(key) if value is None else value
        return None if found is None else parse(found)

    options = Options(
        layer=once("layer", layer),
        weights=once("weights", weights),
        size=once("size", size, parse_size),
        mean=once("mean", mean, partial(parse_channels, "mean")),
        std=once("std", std, partial(parse_channels, "std")),
        classes=once("classes", classes, parse_classes),
        factory=once("factory", factory),
        num_classes=once("num_classes", num_classes, parse_num_classes),
        pipeline=once("pipeline", pipeline),
        native_size=once("native_size", native_size, parse_size),
    )
    picked = pick_device(device)
    source = _source(kind, target, options, spec, trust=trust)
    if isinstance(source.model, Encoder):
        given = ("layer", "size", "mean", "std", "classes", "num_classes", "pipeline", "native_size")
        options.refuse(f"{spec!r}, which is an Encoder already", *given)
        encoder = source.model.eval()
        encoder.name = spec
    else:
        encoder = _wrap(source, options, spec)
    return encoder.requires_grad_(False).to(picked)


def _source(kind: str, target: str, options: Options, spec: str, *, trust: bool) -> Source:
    if kind != "file":
        options.refuse(f"{kind}:", "factory")
    match kind:
        case "embedded":
            options.refuse(kind, "weights")
            return from_package()
        case "torchvision":
            return from_torchvision(target, options.weights, trust=trust)
        case "timm":
            return from_timm(target, options.weights, trust=trust, headless=options.num_classes == 0)
        case "python":
            return from_python(target, options.weights, trust=trust)
        case "trained":
            options.refuse("trained:", "weights", "mean", "std", "classes", "size")
            return from_training(target)
        case "file":
            options.refuse("file:", "weights")
            return from_file(target, options.factory, trust=trust)
    raise InputError(f"expected an encoder as one of {KINDS}, got {spec!r}")


def _wrap(source: Source, options: Options, spec: str) -> Encoder:
    size = source.size if options.size is None else options.size
    if size is None:
        raise InputError(f"expected the input size of {spec!r}, got none; pass size=224 or size=HxW")
    headless = options.num_classes == 0
    if headless:
        options.refuse("a model without a head", "classes")
    pipeline = _pipeline(source, options, size, spec)
    return Encoder(
        without_head(source.model, size, spec) if headless and not source.headless else source.model,
        name=spec,
        input_size=size if options.native_size is None else options.native_size,
        layer=options.layer or (OUTPUT if headless else source.layer),
        mean=options.mean or source.mean,
        std=options.std or source.std,
        classes=None if headless else options.classes or source.classes,
        pipeline=pipeline,
    )


def _pipeline(source: Source, options: Options, size: tuple[int, int], spec: str) -> Pipeline | None:
    if options.pipeline is None:
        options.refuse("an encoder without pipeline=", "native_size")
        return None
    from oodattack.encoders.pipeline.make import make_pipeline  # it imports torchvision, which takes a second

    return make_pipeline(options.pipeline, source.pipeline, options.native_size or size, size, spec)
