"""Networks that `oodattack train` left behind."""

import json
from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import load_state, put_weights
from oodattack.encoders.source import Source
from oodattack.networks import MEAN, STD, build_network


def from_training(path: str) -> Source:
    """The network in the directory of a finished training, with its class names; nothing in it can execute code.

    Raises:
        InputError: if the directory is none, or the training is not finished.
    """
    folder = Path(path)
    try:
        told = json.loads((folder / "train.json").read_text())
        settings, classes = told["settings"], told["classes"]
        model = build_network(settings["network"], settings["method"], len(classes))
        size = int(settings["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected the directory of a training with a train.json, got {path!r}: {error}") from error
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"expected a finished training in {path!r}, got no {weights.name}; give its command again")
    put_weights(model, load_state(str(weights), trust=False), str(weights))
    return Source(model, (size, size), mean=MEAN, std=STD, classes=tuple(classes))
