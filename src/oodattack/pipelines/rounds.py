"""Does it help to train on what the attack finds? Section II-B of the paper says no.

Each round attacks the network (Algorithm 1, from outliers to the latents of training images), adds what was found to
the outliers, and trains on. Then it is measured, on test images and outliers that are never trained on: natural
outliers, the images that fooled the network of the round before, and new attacks on the network as it is now: one like
those that were trained on, one of four times the steps, one in twice the ball, and one on the score itself.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from torch import Tensor

from oodattack.attacks import Ball, Samples, direct, follow, latent
from oodattack.audit.measures import measure
from oodattack.core.errors import InputError
from oodattack.core.pixels import dequantize, quantize
from oodattack.detectors import Classifier, make_detectors
from oodattack.encoders import Encoder
from oodattack.engines.seeds import sample_seed
from oodattack.images import ImageSource, evenly
from oodattack.networks import MEAN, STD
from oodattack.settings.train import TrainSettings
from oodattack.storage.directory import claim
from oodattack.storage.files import write_text, write_torch, write_weights
from oodattack.training.data import Labelled, Outliers
from oodattack.training.session import Session, Tell, reading

STEPS = 100
SCORE = "EnergyBased"  # what the attack on the score lowers
AT_ONCE = 64
GENTLE = 0.1  # of the first training's learning rate


def run_rounds(
    settings: TrainSettings,
    session: Session,
    test: Labelled,
    outliers: Outliers,
    header: Mapping[str, Any],
    tell: Tell,
) -> list[dict[str, Any]]:
    """Attack, train on, measure, as often as the settings say; a finished round is not run again.

    Args:
        settings: of the training.
        session: with the trained network.
        test: labelled images to measure with.
        outliers: natural ones, half of them held out. What is found is added.
        header: of the training, with the class names; a copy goes with each round's network, so that
            ``trained:DIR/rounds/NNN`` names it.
        tell: progress.

    Returns:
        For each round, the first before any: ``accuracy`` on the test images, median ``mape`` of the attacks on z,
        and by score (``MaxSoftmax``, ``EnergyBased``) the measures of ``natural``, ``old``, ``new``, ``longer``,
        ``larger`` and ``direct``.
    """
    decisive = ("eps", "round_epochs", "round_images")
    told = {
        "settings": {name: str(getattr(settings, name)) for name in decisive},
        "inputs": {"test": test.source.digest()},
    }
    with claim(settings.out / "rounds", "rounds.json", told, is_begun=lambda path: any(path.glob("*/state.pt"))):
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
                state, session = _round(settings, session, images, outliers, old, number, tell)
                state["row"]["accuracy"] = session.accuracy(test)
                write_text(folder / "train.json", json.dumps(header, indent=2) + "\n")
                write_weights(folder / "model.safetensors", state["model"])
                write_torch(folder / "state.pt", state)
            old = state["fresh"].cpu()
            rows.append(state["row"])
    return rows


@dataclass(frozen=True)
class _Images:
    """What all rounds use, (N, 3, H, W) uint8."""

    train: Labelled
    x_test: Tensor
    starts: Tensor  # outliers that are trained on, too
    held_out: Tensor  # outliers that are not; in turn, where they are fewer than the test images
    groups: list[str]  # which of them each is


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
    tell: Tell,
) -> tuple[dict[str, Any], Session]:
    """Attack and train on, but for the first; then measure."""
    eps, count = settings.eps[0], len(images.x_test)
    found: Tensor | None = None
    if number:
        # Other training images in each round.
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(number))[:count]
        x_in = torch.stack([quantize(images.train[i][0]) for i in order.tolist()])
        attacker = _Attacker(settings, session, f"round {number}: attacking", tell)
        found = attacker.latent(x_in, images.starts, eps, STEPS)[0]
        outliers.found.append(found)
        session = _train_on(settings, session, outliers, number, tell)
    attacker = _Attacker(settings, session, f"round {number}: measuring", tell)
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


def _train_on(settings: TrainSettings, session: Session, outliers: Outliers, number: int, tell: Tell) -> Session:
    """The same network, trained on for some epochs with natural and attacked outliers."""
    further = Session(
        settings,
        session.accelerator.unwrap_model(session.model),
        session.images,
        outliers,
        session.accelerator,
        epochs=settings.round_epochs,
        rate=GENTLE * settings.rate,
        seed=settings.seed + 1000 * number,
    )
    for _ in range(settings.round_epochs):
        further.epoch(lambda name, done, total: tell(f"round {number}: {name}", done, total))
    return further


class _Attacker:
    """The attacks on the network as it is now."""

    def __init__(self, settings: TrainSettings, session: Session, name: str, tell: Tell) -> None:
        self.settings, self.name, self.tell = settings, name, tell
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
        """Images (N, 3, H, W) uint8 near the starts with the latents of x_in, and their MAPE."""
        found = [
            latent(self.classifier.features, samples, Ball(eps, 2, steps))
            for samples in self._samples(x_in, starts)
        ]
        return torch.cat([f.images for f in found]), torch.cat([f.mape for f in found])

    def direct(self, x_in: Tensor, starts: Tensor, latent: Tensor) -> Tensor:
        """Images near the starts whose score is that of x_in; ``latent``: what the attack on z has found."""
        detector = make_detectors(self.classifier, [SCORE])[0][SCORE]
        batches = list(self._samples(x_in, starts))
        scores = torch.cat([detector.score(samples.x_in).cpu() for samples in batches])
        followed = follow(detector, torch.cat([batches[0].x_in[:2], batches[0].start[:2]]), scores)
        ball = Ball(self.settings.eps[0], 2, STEPS)
        before = torch.split(dequantize(latent).to(self.device), AT_ONCE)
        found = [direct(followed, detector, s, ball, b) for s, b in zip(batches, before, strict=True)]
        return torch.cat([f.images for f in found])

    def _samples(self, x_in: Tensor, starts: Tensor) -> Iterator[Samples]:
        for first in range(0, len(x_in), AT_ONCE):
            self.tell(self.name, first, len(x_in))
            rows = slice(first, first + AT_ONCE)
            inside, start = (dequantize(s[rows]).to(self.device) for s in (x_in, starts))
            seeds = [sample_seed(self.settings.seed, self.name, first + i) for i in range(len(inside))]
            yield Samples(inside, start, seeds)


@torch.no_grad()
def _compare(session: Session, images: _Images, sets: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """By score, its measures on the outliers that were held out, each once, and on the sets made from them."""

    def logits(images: Tensor) -> Tensor:
        parts = torch.split(dequantize(images), AT_ONCE)
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
