"""Rounds of retraining: does training on attacked images help? Section II-B of the paper says no.

Each round attacks the network (Algorithm 1, from outliers to the latents of training images), adds the attacked images
to the outliers, and continues the training. The network is then measured on test images and on outliers that are never
trained on: natural outliers, the images that fooled the network of the previous round, and new attacks on the current
network: one like those trained on, one with four times the steps, one in a ball of twice the radius, and one on the
score itself.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from torch import Tensor

from oodattack.attacks import Ball, Found, Samples, direct, follow, latent
from oodattack.audit.measures import measure
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import Classifier, make_detectors
from oodattack.encoders import Encoder
from oodattack.engines import OnStage, in_batches, sample_seed
from oodattack.images import ImageSource, evenly
from oodattack.networks import MEAN, STD
from oodattack.settings.saved import identity
from oodattack.settings.train import TrainSettings
from oodattack.storage.directory import claim
from oodattack.storage.files import write_text, write_torch, write_weights
from oodattack.training.data import Labelled, Outliers
from oodattack.training.session import Session, reading

STEPS = 100
ATTACKED_SCORE = "EnergyBased"  # by the direct attack
BATCH_SIZE = 64
RATE_SHARE = 0.1  # learning rate of the rounds, relative to that of the first training


def run_rounds(
    settings: TrainSettings,
    session: Session,
    test: Labelled,
    outliers: Outliers,
    header: Mapping[str, Any],
    on_stage: OnStage,
) -> list[dict[str, Any]]:
    """Attack, continue the training and measure, for the number of rounds in the settings; finished rounds are kept.

    Args:
        settings: the settings of the training.
        session: the session with the trained network.
        test: labelled images to measure with.
        outliers: natural outliers, half of them held out. Attacked images are added to them.
        header: the header of the training, with the class names; it is copied beside each round's network, so that
            ``trained:DIR/rounds/NNN`` can load it.
        on_stage: called with the progress.

    Returns:
        For each round, beginning with the network before the first: ``accuracy`` on the test images, median ``mape`` of
        the latent attacks, and by score (``MaxSoftmax``, ``EnergyBased``) the measures of ``natural``, ``old``,
        ``new``, ``longer``, ``larger`` and ``direct``.

    Raises:
        InputError: if there are fewer than 2 outliers, or the directory contains rounds with other settings.
    """
    header_of_rounds = {"settings": identity(settings, "rounds"), "inputs": {"test": test.source.digest()}}
    with claim(settings.out / "rounds", "rounds.json", header_of_rounds, is_begun=_has_rounds):
        rows: list[dict[str, Any]] = []
        images = _images(settings, session.images.source, test, outliers)
        old: Tensor | None = None
        for number in range(settings.rounds + 1):
            folder = settings.out / "rounds" / f"{number:03d}"
            if (folder / "state.pt").exists():
                with reading(folder / "state.pt"):
                    state = torch.load(folder / "state.pt", map_location=session.accelerator.device, weights_only=True)
                    session.model.load_state_dict(state["model"])
                    outliers.found += [] if state["found"] is None else [state["found"].cpu()]
            else:
                state, session = _round(settings, session, images, outliers, old, number, on_stage)
                state["row"]["accuracy"] = session.accuracy(test)
                write_text(folder / "train.json", json.dumps(header, indent=2) + "\n")
                write_weights(folder / "model.safetensors", state["model"])
                write_torch(folder / "state.pt", state)
            old = state["fresh"].cpu()
            rows.append(state["row"])
    return rows


def _has_rounds(path: Path) -> bool:
    return any(path.glob("*/state.pt"))


@dataclass(frozen=True)
class _Images:
    """The images of all rounds.

    Attributes:
        train: labelled training images, the targets of the attacks whose images are trained on.
        x_test: (N, 3, H, W) uint8 test images, the targets of the attacks that measure.
        starts: (N, 3, H, W) uint8 outliers that are trained on.
        held_out: (N, 3, H, W) uint8 outliers that are not trained on, repeated in turn if there are fewer than N.
        groups: a name for each row of ``held_out``; repeated images share it.
    """

    train: Labelled
    x_test: Tensor
    starts: Tensor
    held_out: Tensor
    groups: list[str]


def _images(settings: TrainSettings, source: ImageSource, test: Labelled, outliers: Outliers) -> _Images:
    train = Labelled(source, settings.size, test.classes)
    count = min(settings.round_images, len(test), len(train))

    def some(places: range) -> list[int]:
        chosen = [places[i] for i in evenly(len(places), count)]
        return [chosen[i % len(chosen)] for i in range(count)]

    def get(places: list[int]) -> Tensor:
        return torch.stack([outliers.get(i) for i in places])

    if not outliers.held_out:
        raise InputError(f"expected at least 2 outliers for rounds, got {len(outliers)}")
    x_test = torch.stack([quantize(test[i][0]) for i in evenly(len(test), count)])
    held_out = some(outliers.held_out)
    return _Images(train, x_test, get(some(outliers.trained)), get(held_out), [str(i) for i in held_out])


def _round(
    settings: TrainSettings,
    session: Session,
    images: _Images,
    outliers: Outliers,
    old: Tensor | None,
    number: int,
    on_stage: OnStage,
) -> tuple[dict[str, Any], Session]:
    """Attack and continue the training, except in round 0; then measure."""
    eps, count = settings.eps, len(images.x_test)
    found: Tensor | None = None
    if number:
        # Each round draws its own training images.
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(number))[:count]
        x_in = torch.stack([quantize(images.train[i][0]) for i in order.tolist()])
        attacker = _Attacker(settings, session, f"round {number}: attacking", on_stage)
        found = attacker.latent(x_in, images.starts, eps, STEPS)[0]
        outliers.found.append(found)
        session = _train_on(settings, session, outliers, number, on_stage)
    attacker = _Attacker(settings, session, f"round {number}: measuring", on_stage)
    attacks = {"new": (eps, STEPS), "longer": (eps, 4 * STEPS), "larger": (2 * eps, STEPS)}
    fresh = {name: attacker.latent(images.x_test, images.held_out, *ball) for name, ball in attacks.items()}
    sets = {} if old is None else {"old": old}
    sets |= {name: attacked for name, (attacked, _) in fresh.items()}
    sets["direct"] = attacker.direct(images.x_test, images.held_out, sets["new"])
    row = {
        "round": number,
        "mape": {name: float(mape.nanquantile(0.5)) for name, (_, mape) in fresh.items()},
        **_compare(session, images, sets, settings.seed),
    }
    return {"row": row, "found": found, "fresh": sets["new"], "model": session.model.state_dict()}, session


def _train_on(settings: TrainSettings, session: Session, outliers: Outliers, number: int, on_stage: OnStage) -> Session:
    """Train the same network for some more epochs, with natural and attacked outliers."""
    further = Session(
        settings,
        session.accelerator.unwrap_model(session.model),
        session.images,
        outliers,
        session.accelerator,
        epochs=settings.round_epochs,
        rate=RATE_SHARE * settings.rate,
        seed=settings.seed + 1000 * number,
    )
    for _ in range(settings.round_epochs):
        further.epoch(lambda name, done, total: on_stage(f"round {number}: {name}", done, total))
    return further


class _Attacker:
    """The attacks on the current network."""

    def __init__(self, settings: TrainSettings, session: Session, name: str, on_stage: OnStage) -> None:
        self.settings, self.name, self.on_stage = settings, name, on_stage
        self.device = session.accelerator.device
        encoder = Encoder(
            session.accelerator.unwrap_model(session.model),
            name=name,
            input_size=(settings.size, settings.size),
            mean=MEAN,
            std=STD,
        ).eval()
        self.classifier = Classifier(encoder)

    def latent(self, x_in: Tensor, starts: Tensor, eps: float, steps: int) -> tuple[Tensor, Tensor]:
        """Find images (N, 3, H, W) uint8 near the starts with the latents of x_in; also returns their MAPE (N,)."""
        ball = Ball(eps, 2, steps)
        return self._attack(x_in, starts, lambda samples, _rows: latent(self.classifier.features, samples, ball))

    def direct(self, x_in: Tensor, starts: Tensor, initial: Tensor) -> Tensor:
        """Find images (N, 3, H, W) uint8 near the starts whose score is no higher than that of x_in.

        Args:
            x_in: (N, 3, H, W) uint8.
            starts: (N, 3, H, W) uint8.
            initial: (N, 3, H, W) uint8, the images that the latent attack found in the same ball.
        """
        detector = make_detectors(self.classifier, [ATTACKED_SCORE])[0][ATTACKED_SCORE]
        batches = [dequantize(images).to(self.device) for images in torch.split(x_in, BATCH_SIZE)]
        inside = torch.cat([detector.score(images).cpu() for images in batches])
        few = torch.cat([dequantize(images[:2]).to(self.device) for images in (x_in, starts)])
        followed, ball = follow(detector, few, inside), Ball(self.settings.eps, 2, STEPS)

        def lower(samples: Samples, rows: slice) -> Found:
            return direct(followed, detector, samples, ball, dequantize(initial[rows]).to(self.device))

        return self._attack(x_in, starts, lower)[0]

    def _attack(
        self, x_in: Tensor, starts: Tensor, function: Callable[[Samples, slice], Found]
    ) -> tuple[Tensor, Tensor]:
        """Attack all rows in batches that fit into memory: the images (N, 3, H, W) uint8 and their MAPE (N,)."""

        def compute(rows: range) -> Found:
            self.on_stage(self.name, rows.start, len(x_in))
            some = slice(rows.start, rows.stop)
            inside, start = (dequantize(images[some]).to(self.device) for images in (x_in, starts))
            seeds = [sample_seed(self.settings.seed, self.name, row) for row in rows]
            return function(Samples(inside, start, seeds), some)

        found = [batch for _, batch in in_batches(range(len(x_in)), BATCH_SIZE, compute)]
        return torch.cat([batch.images for batch in found]), torch.cat([batch.mape for batch in found])


@torch.no_grad()
def _compare(session: Session, images: _Images, sets: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """By score: the measures of the held-out outliers, each counted once, and of the sets attacked from them."""

    def logits(images: Tensor) -> Tensor:
        parts = torch.split(dequantize(images), BATCH_SIZE)
        return torch.cat([session.model(session.normalise(x.to(session.accelerator.device))).cpu() for x in parts])

    inside, natural = logits(images.x_test), logits(images.held_out[: len(set(images.groups))])
    outside = {name: logits(found) for name, found in sets.items()}
    by_score = {}
    for kind in (MaxSoftmax, EnergyBased):
        scores = kind.score(inside)
        found = {"natural": measure(scores, kind.score(natural), seed=seed)}
        for name, attacked in outside.items():
            found[name] = measure(scores, kind.score(attacked), paired=True, groups=images.groups, seed=seed)
        by_score[kind.__name__] = {name: asdict(measured) for name, measured in found.items()}
    return by_score
