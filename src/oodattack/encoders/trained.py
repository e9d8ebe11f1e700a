"""Networks trained by `oodattack train`."""

import json
from pathlib import Path

from oodattack.core.errors import InputError
from oodattack.encoders.checkpoints import load_state, put_weights
from oodattack.encoders.source import Source
from oodattack.networks import MEAN, STD, build_network


def from_training(path: str) -> Source:
    """Load the network and class names from the directory of a finished training, without executing any code in it.

    Raises:
        InputError: if the directory is not that of a training, or the training has not finished.
    """
    folder = Path(path)
    try:
        record = json.loads((folder / "train.json").read_text())
        settings, classes = record["settings"], record["classes"]
        model = build_network(settings["network"], settings["method"], len(classes))
        size = int(settings["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected a training directory with a train.json, got {path!r}: {error}") from error
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"expected a finished training in {path!r}, got no {weights.name}; run its command again")
    put_weights(model, load_state(str(weights), trust=False), str(weights))
    return Source(model, (size, size), mean=MEAN, std=STD, classes=tuple(classes))
