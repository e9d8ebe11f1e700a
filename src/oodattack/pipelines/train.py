"""Train a network and write it to disk."""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from oodattack.engines import Engine, LocalEngine, Progress, environment, logged_stages
from oodattack.images import digest, open_images
from oodattack.networks import build_network
from oodattack.pipelines.image_model import train_image_model
from oodattack.pipelines.rounds import claim_rounds, run_rounds
from oodattack.settings.saved import identity
from oodattack.settings.train import TrainSettings
from oodattack.storage import hashes
from oodattack.storage.directory import claim
from oodattack.storage.files import write_text, write_weights
from oodattack.training.data import Labelled, Outliers
from oodattack.training.layout import CHECKPOINT, LAYOUT, RESULTS, WEIGHTS, has_epochs
from oodattack.training.session import Session, seeded
from oodattack.training.setup import log, make_accelerator, open_log

logger = logging.getLogger(__name__)


def train(
    settings: TrainSettings,
    *,
    engine: Engine | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train a network and write a directory that ``trained:DIR`` can load; an existing training is resumed.

    The state is saved after every epoch, and an interrupted training ends with the same weights as an uninterrupted
    one: each epoch draws its order, crops and noise from its own seed.

    Args:
        settings: the settings of the training.
        engine: computes the attacks of the rounds; by default in this process, which does the training itself.
        on_progress: called after every step.

    Returns:
        The contents of ``results.json``: ``loss`` of each epoch, ``test_accuracy``, and ``rounds``; for the objectives
        likelihood and score, see `train_image_model`.

    Raises:
        InputError: for invalid input, or if the loss becomes non-finite; finished epochs and results are kept.
        KeyboardInterrupt: after Ctrl-C; finished epochs are kept.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from oodattack.images import encode_png
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for path in (Path(folder, "images", name, "0.png") for name in ("cat", "dog")):
    ...         path.parent.mkdir(parents=True)
    ...         _ = path.write_bytes(encode_png(torch.randint(256, (3, 8, 8)).byte()))
    ...     results = train(TrainSettings(
    ...         train=f"{folder}/images", network="resnet8", size=8, epochs=1, out=Path(folder, "net")))
    ...     len(results["loss"])
    1
    """
    on_stage = logged_stages(logger, on_progress)
    if settings.objective != "classification":
        return train_image_model(settings, on_stage)
    open_set = partial(open_images, data_root=settings.data_root, download=settings.download)
    images = Labelled(open_set(settings.train), settings.size, augment=settings.augmentation)
    test = None if settings.test is None else Labelled(open_set(settings.test), settings.size, images.classes)
    hold_out = settings.rounds > 0
    natural = [open_set(spec) for spec in settings.outliers]
    outliers = Outliers(natural, settings.size, hold_out=hold_out) if natural else None
    accelerator = make_accelerator(settings.device)
    open_log(settings.tensorboard)
    header = {
        "settings": identity(settings),
        "inputs": {
            "train": digest(images.source, range(len(images))),
            "outliers": [] if outliers is None else [digest(source, range(len(source))) for source in outliers.sources],
        },
        "classes": list(images.classes),
        "held_out": hold_out,
        "environment": environment(accelerator.device),
    }
    rounds: AbstractContextManager[None] = nullcontext()
    if settings.rounds and test is not None:
        rounds = claim_rounds(settings, test)  # before training: a refusal must come early, and leave the results alone
    with claim(settings.out, LAYOUT, header, is_begun=has_epochs) as found, rounds:
        with seeded(settings.seed, -1):
            model = build_network(settings.network, settings.method, len(images.classes))
        session = Session(
            settings,
            model,
            images,
            outliers if settings.method == "outlier-exposure" else None,
            accelerator,
            epochs=settings.epochs,
            rate=settings.peak_rate,
            seed=settings.seed,
        )
        if has_epochs(settings.out):
            session.load(settings.out / CHECKPOINT)
        while len(session.history) < settings.epochs:
            mean = session.epoch(on_stage)
            session.save(settings.out / CHECKPOINT)
            log(settings.tensorboard, len(session.history), {"loss": mean})
        results: dict[str, Any] = {"loss": session.history}
        if test is not None:
            on_stage("testing", 0, 1)
            results["test_accuracy"] = session.accuracy(test)
        with hashes.replacing(settings.out, settings.out / WEIGHTS):
            write_weights(settings.out / WEIGHTS, session.model.state_dict())
        if settings.rounds:
            assert test is not None and outliers is not None  # noqa: S101, PT018 -- checked by the settings
            work = engine or LocalEngine()
            results["rounds"] = run_rounds(settings, session, test, outliers, found, work, on_stage)
        with hashes.replacing(settings.out, settings.out / RESULTS):
            write_text(settings.out / RESULTS, json.dumps(results, indent=2) + "\n")
    return results
