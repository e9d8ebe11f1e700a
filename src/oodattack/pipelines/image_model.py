"""Train a model of images, a flow or a score network, and write it to disk."""

import json
from functools import partial
from typing import Any

import torch
from torchvision.utils import make_grid

from oodattack.core.errors import InputError
from oodattack.core.pixels import quantize
from oodattack.engines import OnStage, environment
from oodattack.images import digest, encode_png, open_images, shuffled
from oodattack.networks import Glow, build_image_model
from oodattack.networks.score import ScoreNetwork
from oodattack.settings.saved import identity
from oodattack.settings.train import TrainSettings
from oodattack.storage import hashes
from oodattack.storage.directory import claim
from oodattack.storage.files import write_bytes, write_text, write_weights
from oodattack.training.image_session import ImageSession
from oodattack.training.layout import CHECKPOINT, LAYOUT, RESULTS, SAMPLES, WEIGHTS, has_epochs
from oodattack.training.objectives import LIKELIHOOD, SCORE
from oodattack.training.session import seeded
from oodattack.training.setup import log, make_accelerator, open_log
from oodattack.training.unlabelled import Unlabelled

HELD_OUT = 10  # without held-out images, one training image in ten is held out
SAMPLED = 64  # images in the picture of samples


def train_image_model(settings: TrainSettings, on_stage: OnStage) -> dict[str, Any]:
    """Train a flow or a score network; see `train`.

    Returns:
        The contents of ``results.json``: by "train" and "held_out" the mean losses of each epoch, their ``unit``, the
        ``best_epoch`` counted from 1, whose weights are written, and the number of ``parameters``.

    Raises:
        InputError: for invalid input, or if the loss becomes non-finite; finished epochs and results are kept.
        KeyboardInterrupt: after Ctrl-C; finished epochs are kept.
    """
    images, held_out, inputs = _open(settings)
    objective = LIKELIHOOD if settings.objective == "likelihood" else SCORE
    accelerator = make_accelerator(settings.device, mixed_precision=True)
    open_log(settings.tensorboard)
    with seeded(settings.seed, -1):
        model = build_image_model(settings.network, settings.size)
    header = {
        "settings": identity(settings),
        "inputs": inputs,
        "classes": [],
        "held_out": True,
        "environment": environment(accelerator.device),
    }
    with claim(settings.out, LAYOUT, header, is_begun=has_epochs):
        session = ImageSession(settings, model, objective, images, held_out, accelerator)
        if has_epochs(settings.out):
            session.load(settings.out / CHECKPOINT)
        while not session.is_finished:
            session.epoch(on_stage)
            session.save(settings.out / CHECKPOINT)
            losses = {name: values[-1] for name, values in session.history.items()}
            log(settings.tensorboard, len(session.history["train"]), losses)
        session.trained.load_state_dict(session.best)
        with hashes.replacing(settings.out, settings.out / WEIGHTS):
            write_weights(settings.out / WEIGHTS, session.best)
        on_stage("drawing samples", 0, 1)
        trained = session.trained.eval()
        assert isinstance(trained, Glow | ScoreNetwork)  # noqa: S101 -- built above
        samples = trained.sample(SAMPLED, torch.Generator().manual_seed(settings.seed))
        with hashes.replacing(settings.out, settings.out / SAMPLES):
            write_bytes(settings.out / SAMPLES, encode_png(quantize(make_grid(samples.cpu(), padding=1))))
        results: dict[str, Any] = {
            **session.history,
            "unit": objective.unit,
            "best_epoch": session.best_epoch,
            "parameters": sum(value.numel() for value in model.parameters()),
        }
        with hashes.replacing(settings.out, settings.out / RESULTS):
            write_text(settings.out / RESULTS, json.dumps(results, indent=2) + "\n")
    return results


def _open(settings: TrainSettings) -> tuple[Unlabelled, Unlabelled, dict[str, Any]]:
    """The training images, the held-out ones, and the digests of both.

    Without held-out images of their own, which training images are held out depends on their number alone: trainings
    with different seeds hold out the same ones.
    """
    open_set = partial(open_images, data_root=settings.data_root, download=settings.download)
    source = open_set(settings.train)
    test = source if settings.test is None else open_set(settings.test)
    order = shuffled(len(source), 0)
    count = len(source) // HELD_OUT if settings.test is None else 0
    if len(source) - count < 2 or (settings.test is None and count < 1):
        raise InputError(
            f"expected at least {HELD_OUT} training images, got {len(source)} in {source.spec}; add images, or name"
            " held-out ones with --test"
        )
    trained, tested = sorted(order[count:]), sorted(order[:count]) if settings.test is None else range(len(test))
    inputs = {"train": digest(source, trained), "held_out": digest(test, tested), "outliers": []}
    return (
        Unlabelled(source, trained, settings.size, settings.augmentation, settings.mutate),
        Unlabelled(test, tested, settings.size, mutate=settings.mutate),
        inputs,
    )
