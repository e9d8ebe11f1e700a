"""Networks trained by `oodattack train`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import load_state, put_weights
from oodattack.encoders.layers import OUTPUT
from oodattack.encoders.source import Source
from oodattack.networks import MEAN, STD, build_image_model, build_network


def from_training(path: str) -> Source:
    """Load the network and, for a classifier, its class names from the directory of a finished training.

    No code in the directory is executed.

    Raises:
        InputError: if the directory is not that of a training, or the training has not finished.
    """
    record = _read(path)
    settings, classes = record["settings"], record["classes"]
    is_classifier = settings.get("objective", "classification") == "classification"
    try:
        size = int(settings["size"])
        if is_classifier:
            model = build_network(settings["network"], settings["method"], len(classes))
        else:
            model = build_image_model(settings["network"], size)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected a training directory with a train.json, got {path!r}: {error}") from error
    weights = Path(path) / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"expected a finished training in {path!r}, got no {weights.name}; run its command again")
    put_weights(model, load_state(str(weights), trust=False), str(weights))
    if not is_classifier:
        return Source(model, (size, size), layer=OUTPUT)  # flows and score networks take pixels in [0, 1]
    return Source(model, (size, size), mean=MEAN, std=STD, classes=tuple(classes))


def training_settings(path: str) -> Mapping[str, Any]:
    """Read the settings of a training from its directory.

    Raises:
        InputError: if the directory is not that of a training.
    """
    found: Mapping[str, Any] = _read(path)["settings"]
    return found


def _read(path: str) -> Mapping[str, Any]:
    try:
        record: Mapping[str, Any] = json.loads((Path(path) / "train.json").read_text())
        if not isinstance(record["settings"], dict) or not isinstance(record["classes"], list):
            raise TypeError("it has no settings or no classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected a training directory with a train.json, got {path!r}: {error}") from error
    return record
