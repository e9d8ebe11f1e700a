"""How an encoder was trained, for comparisons; reading it needs no torch."""

import json
from pathlib import Path
from typing import Any

from oodattack.settings.parse import split_options
from oodattack.training.layout import NAME

KIND = "trained:"


def training_settings(encoder: str) -> dict[str, Any]:
    """The settings in the directory of an encoder ``trained:DIR``, their names prefixed with "training: ".

    Returns:
        Nothing for other encoders, and where the directory cannot be read any more.

    >>> training_settings("torchvision:resnet18"), training_settings("trained:no/such/training")
    ({}, {})
    """
    if not encoder.startswith(KIND):
        return {}
    directory, _ = split_options(encoder.removeprefix(KIND))
    try:
        settings = json.loads((Path(directory.strip()) / NAME).read_text())["settings"]
        return {f"training: {name}": value for name, value in settings.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
