"""Rounds of retraining: does training on attacked images help? Section II-B of the paper says no.

Each round attacks the network (Algorithm 1, from outliers to the latents of training images), adds the attacked images
to the outliers, and continues the training. The network is then measured on test images and on outliers that are never
trained on: natural outliers, the images attacked in the previous round, and new attacks on the current
network: one like those trained on, one with four times the steps, one in a ball of twice the radius, and one on the
score itself.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodattack.attacks import Ball
from oodattack.auditing.store import finite
from oodattack.core.errors import InputError
from oodattack.core.pixels import quantize
from oodattack.engines import Engine, OnStage, PerProcess, Step
from oodattack.images import digest
from oodattack.pipelines.round_attacks import (
    ATTACKED_SCORE,
    BATCH_SIZE,
    DirectAttack,
    LatentAttack,
    RoundAttack,
    as_classifier,
    attacked_detector,
    open_network,
)
from oodattack.pipelines.round_images import RoundImages, attacked_rows, choose_images
from oodattack.pipelines.round_scores import compare, in_small_batches, score_sets
from oodattack.settings.saved import identity, saved
from oodattack.settings.train import TrainSettings
from oodattack.storage import hashes
from oodattack.storage.directory import claim
from oodattack.storage.files import write_text, write_torch, write_weights
from oodattack.training.data import Labelled, Outliers
from oodattack.training.layout import NAME, ROUND_IMAGES, ROUNDS, ROUNDS_FOLDER, WEIGHTS, round_folder
from oodattack.training.round_store import read_round, write_round
from oodattack.training.session import Session, reading

STEPS = 100
RATE_SHARE = 0.1  # learning rate of the rounds, relative to that of the first training


@contextmanager
def claim_rounds(settings: TrainSettings, test: Labelled) -> Iterator[None]:
    """Lock the directory of the rounds for the duration of the block, and write its header or compare it.

    Args:
        settings: the settings of the training.
        test: labelled images to measure with.

    Raises:
        InputError: if the directory contains rounds with other settings or of an earlier version, or is in use.
    """
    header = {
        "settings": identity(settings, "rounds"),
        "inputs": {"test": digest(test.source, range(len(test)))},
    }
    with claim(settings.out / ROUNDS_FOLDER, ROUNDS, header, is_begun=_has_rounds):
        yield


def run_rounds(
    settings: TrainSettings,
    session: Session,
    test: Labelled,
    outliers: Outliers,
    header: Mapping[str, Any],
    engine: Engine,
    on_stage: OnStage,
) -> list[dict[str, Any]]:
    """Attack, continue the training and measure, for the number of rounds in the settings; finished rounds are kept.

    The network is trained in this process; the engine attacks it. Call it within `claim_rounds`.

    Args:
        settings: the settings of the training.
        session: the session with the trained network.
        test: labelled images to measure with.
        outliers: natural outliers, half of them held out. Attacked images are added to them.
        header: the header of the training, with the class names; it is copied beside each round's network, so that
            ``trained:DIR/rounds/NNN`` can load it.
        engine: computes the attacks.
        on_stage: called with the progress.

    Returns:
        For each round, beginning with the network before the first: ``accuracy`` on the test images, median ``mape`` of
        the latent attacks, and by score (``MaxSoftmax``, ``EnergyBased``) the measures of ``natural``, ``old``,
        ``new``, ``longer``, ``larger`` and ``direct``.

    Raises:
        InputError: if there are fewer than 2 outliers, or a finished round cannot be read.
    """
    rows: list[dict[str, Any]] = []
    images = choose_images(settings, session.images.source, test, outliers)
    old: Tensor | None = None
    for number in range(settings.rounds + 1):
        folder = round_folder(settings.out, number)
        if (folder / "state.pt").exists() and (folder / ROUND_IMAGES).exists():  # a damaged one may have been deleted
            with reading(folder / "state.pt"):
                state = torch.load(folder / "state.pt", map_location=session.accelerator.device, weights_only=True)
                session.model.load_state_dict(state["model"])
                outliers.found += [] if state["found"] is None else [state["found"].cpu()]
        else:
            found: Tensor | None = None
            if number:
                found = _attack_to_train(settings, session, images, number, engine, on_stage)
                outliers.found.append(found)
                session = _train_on(settings, session, outliers, number, on_stage)
            # Before measuring, because the engine's workers load this network.
            with hashes.replacing(folder.parent, folder / NAME):
                write_text(folder / NAME, json.dumps(header, indent=2) + "\n")
            with hashes.replacing(folder.parent, folder / WEIGHTS):
                write_weights(folder / WEIGHTS, session.model.state_dict())
            fresh = _measure(settings, session, images, test, old, number, engine, on_stage)
            state = {"found": found, "fresh": fresh, "model": session.model.state_dict()}
            write_torch(folder / "state.pt", state)  # last: it says that the round is finished
        old = state["fresh"].cpu()
        rows.append(dict(read_round(folder).figures))
    return rows


def _has_rounds(path: Path) -> bool:
    """Whether a directory contains finished rounds.

    Raises:
        InputError: if an earlier version wrote them.
    """
    if not any(path.glob("*/state.pt")):
        return False
    try:
        found = json.loads((path / ROUNDS.header).read_text()).get("format", 1)
    except (OSError, ValueError, AttributeError):
        return True  # `claim` reports it
    if found != ROUNDS.format:
        raise InputError(
            f"expected rounds of format {ROUNDS.format} in {path}, got format {found}, which can be read but not"
            " resumed; choose another --out"
        )
    return True


def _attack_to_train(
    settings: TrainSettings, session: Session, images: RoundImages, number: int, engine: Engine, on_stage: OnStage
) -> Tensor:
    """Images (N, 3, H, W) uint8 near outliers that have the latents of training images; other ones in each round."""
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(number))[: len(images.x_test)]
    x_in = torch.stack([quantize(images.train[i][0]) for i in order.tolist()])
    attacker = _Attacker(
        settings, session, round_folder(settings.out, number - 1), f"round {number}: attacking", engine, on_stage
    )
    return attacker.latent(x_in, images.starts, settings.eps, STEPS)[0]


def _measure(
    settings: TrainSettings,
    session: Session,
    images: RoundImages,
    test: Labelled,
    old: Tensor | None,
    number: int,
    engine: Engine,
    on_stage: OnStage,
) -> Tensor:
    """Attack, compare scores, and store the round; returns the images (N, 3, H, W) uint8 of ``new``."""
    eps, folder = settings.eps, round_folder(settings.out, number)
    attacker = _Attacker(settings, session, folder, f"round {number}: measuring", engine, on_stage)
    attacks = {"new": (eps, STEPS), "longer": (eps, 4 * STEPS), "larger": (2 * eps, STEPS)}
    fresh = {name: attacker.latent(images.x_test, images.held_out, *ball) for name, ball in attacks.items()}
    medians = {name: float(mape.nanquantile(0.5)) for name, (_, mape) in fresh.items()}
    fresh["direct"] = attacker.direct(images.x_test, images.held_out, fresh["new"][0])
    attacked = {name: found for name, (found, _) in fresh.items()}
    scores = score_sets(session, images, attacked if old is None else {"old": old, **attacked})
    figures = {
        "round": number,
        "mape": medians,
        **{kind: compare(found, images, settings.seed) for kind, found in scores.items()},
        "accuracy": session.accuracy(test),
    }
    energy = scores[ATTACKED_SCORE]
    kept = {name: (*fresh[name], energy[name]) for name in ("new", "direct")}
    write_round(folder, finite(figures), saved(settings), attacked_rows(images, kept, energy["natural"]))
    return fresh["new"][0]


def _train_on(settings: TrainSettings, session: Session, outliers: Outliers, number: int, on_stage: OnStage) -> Session:
    """Train the same network for some more epochs, with natural and attacked outliers."""
    further = Session(
        settings,
        session.accelerator.unwrap_model(session.model),
        session.images,
        outliers,
        session.accelerator,
        epochs=settings.round_epochs,
        rate=RATE_SHARE * settings.peak_rate,
        seed=settings.seed + 1000 * number,
    )
    for _ in range(settings.round_epochs):
        further.epoch(lambda name, done, total: on_stage(f"round {number}: {name}", done, total))
    return further


class _Attacker:
    """The attacks on the current network, whose weights are also in a folder, for other processes."""

    def __init__(
        self, settings: TrainSettings, session: Session, folder: Path, name: str, engine: Engine, on_stage: OnStage
    ) -> None:
        self.settings, self.name, self.engine, self.on_stage = settings, name, engine, on_stage
        here = as_classifier(session.accelerator.unwrap_model(session.model), settings.size, name)
        load = partial(open_network, folder, settings.size, here.device, torch.get_num_threads())
        self.network = PerProcess(load, here=here)

    def latent(self, x_in: Tensor, starts: Tensor, eps: float, steps: int) -> tuple[Tensor, Tensor]:
        """Find images (N, 3, H, W) uint8 near the starts with the latents of x_in; also returns their MAPE (N,)."""
        ball = Ball(eps, 2, steps)
        return self._map(LatentAttack(self.network, self.name, self.settings.seed, x_in, starts, ball))

    def direct(self, x_in: Tensor, starts: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        """Find images (N, 3, H, W) uint8 near the starts with the lowest scores; also returns their MAPE (N,).

        Args:
            x_in: (N, 3, H, W) uint8.
            starts: (N, 3, H, W) uint8.
            initial: (N, 3, H, W) uint8, the images that the latent attack found in the same ball.
        """
        classifier = self.network.get()
        detector = attacked_detector(classifier)
        inside = in_small_batches(x_in, lambda images: detector.score(images.to(classifier.device)).cpu())
        ball = Ball(self.settings.eps, 2, STEPS)
        work = DirectAttack(self.network, self.name, self.settings.seed, x_in, starts, ball, initial, inside)
        return self._map(work)

    def _map(self, work: RoundAttack) -> tuple[Tensor, Tensor]:
        """Attack all rows, in chunks that do not depend on the engine: the images (N, 3, H, W) uint8, and MAPE (N,)."""
        rows = range(len(work.x_in))
        chunks = [rows[start : start + BATCH_SIZE] for start in rows[::BATCH_SIZE]]

        def on_step(chunk: range, step: Step) -> None:
            self.on_stage(self.name, chunk.start + step.rows_done, len(rows))

        found = dict(self.engine.map(work, chunks, on_step=on_step))
        images, mape = zip(*(found[chunk] for chunk in chunks), strict=True)
        return torch.cat(images), torch.cat(mape)
