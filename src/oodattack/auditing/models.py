"""The trained models of images that an audit's settings name."""

from collections.abc import Sequence

import torch

from oodattack.core.errors import InputError
from oodattack.detectors.likelihood import ImageModels
from oodattack.encoders import Encoder, load_encoder
from oodattack.encoders.trained import training_settings
from oodattack.networks import Glow
from oodattack.networks.score import ScoreNetwork

_TRAINED = "trained:"


def open_models(specs: Sequence[str], encoder: Encoder) -> tuple[ImageModels, list[str]]:
    """Load flows, a background model and a score network; an encoder that is a flow comes first.

    Args:
        specs: names of trainings, as ``trained:DIR``.
        encoder: the encoder of the audit; the models are put on its device.

    Returns:
        The models by role, and digests of their weights.

    Raises:
        InputError: if one cannot be loaded, is a classifier, or has a role that another one has already.
    """
    device: torch.device = encoder.mean.device
    flows: list[Glow] = []
    background: Glow | None = None
    score_network: ScoreNetwork | None = None
    digests = []
    if isinstance(encoder.model, Glow):
        flows.append(encoder.model)
    for spec in specs:
        if not spec.startswith(_TRAINED):
            raise InputError(f"expected a model as trained:DIR, saved by `oodattack train`, got {spec!r}")
        loaded = load_encoder(spec, device=str(device))
        digests.append(loaded.digest())
        model = loaded.model.requires_grad_(False)
        is_background = training_settings(spec.removeprefix(_TRAINED)).get("mutate", 0) > 0
        if isinstance(model, Glow) and not is_background:
            flows.append(model)
        elif isinstance(model, Glow) and background is None:
            background = model
        elif isinstance(model, ScoreNetwork) and score_network is None:
            score_network = model
        elif isinstance(model, Glow | ScoreNetwork):
            role = "background model" if is_background else "score network"
            raise InputError(f"expected one {role}, got a second one: {spec}; name only one")
        else:
            raise InputError(f"expected a flow or a score network, got the classifier {spec}; name it with --encoder")
    return ImageModels(tuple(flows), background, score_network), digests
