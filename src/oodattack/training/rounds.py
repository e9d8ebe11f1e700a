"""Does it help to train on what the attack finds? Section II-B of the paper says no.

Each round attacks the network (Algorithm 1, from outliers to the latents of training images), adds what was found to
the outliers, and trains on. Then it is measured, on test images and outliers that are never trained on: natural
outliers, the images that fooled the network of the round before, and a new attack on the network as it is now.
"""

from dataclasses import asdict
from typing import Any

import torch
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from torch import Tensor

from oodattack.algorithm import attack
from oodattack.audit.attacks import sample_seed
from oodattack.audit.data import evenly
from oodattack.audit.measures import measure
from oodattack.encoders import Encoder, prepare
from oodattack.networks import MEAN, STD
from oodattack.pixels import dequantize, quantize
from oodattack.runs.files import write_whole
from oodattack.train_settings import TrainSettings
from oodattack.training.data import Labelled, Outliers
from oodattack.training.session import Session, Tell

STEPS = 100
AT_ONCE = 64
GENTLE = 0.1  # of the first training's learning rate


def run_rounds(
    settings: TrainSettings, session: Session, test: Labelled, outliers: Outliers, tell: Tell
) -> list[dict[str, Any]]:
    """Attack, train on, measure, as often as the settings say; a finished round is not run again.

    Args:
        settings: of the training.
        session: with the trained network.
        test: labelled images to measure with.
        outliers: natural ones: even places are trained on, odd ones measured with. What is found is added.
        tell: progress.

    Returns:
        For each round, the first before any: ``accuracy`` on the test images, ``mape`` of the new attack (median), and
        by score (``MaxSoftmax``, ``EnergyBased``) the measures of ``natural``, ``old`` and ``new``.
    """
    plain = Labelled(settings.train, settings.size, test.classes)
    count = min(settings.round_images, len(test), len(plain))
    trained = _places(outliers, 0, count)
    held_out = _places(outliers, 1, count)
    x_test = torch.stack([quantize(test[i][0]) for i in evenly(len(test), count)])
    rows: list[dict[str, Any]] = []
    old: Tensor | None = None
    for number in range(settings.rounds + 1):
        file = settings.out / "rounds" / f"{number:03d}.pt"
        if file.exists():
            state = torch.load(file, map_location=session.accelerator.device, weights_only=True)
            session.model.load_state_dict(state["model"])
        else:
            state = {}
            if number:
                x_in = torch.stack([quantize(plain[i][0]) for i in _some(len(plain), count, number)])
                found = _attacked(settings, session, x_in, trained, f"round {number}: attacking", tell)[0]
                state["found"] = found
        if "found" in state:
            outliers.found.append(state["found"].cpu())
        if "row" not in state:
            if number:
                session = _train_on(settings, session, outliers, number, tell)
            fresh, mape = _attacked(settings, session, x_test, held_out, f"round {number}: measuring", tell)
            state["row"] = {
                "round": number,
                "accuracy": session.accuracy(test),
                "mape": float(mape.nanmedian()),
                **_compare(session, x_test, held_out, old, fresh, settings.seed),
            }
            state |= {"fresh": fresh, "model": session.model.state_dict()}
            write_whole(file, lambda partial, state=state: torch.save(state, partial))  # type: ignore[misc]
        old = state["fresh"].cpu()
        rows.append(state["row"])
    return rows


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


def _attacked(
    settings: TrainSettings, session: Session, x_in: Tensor, starts: Tensor, name: str, tell: Tell
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 near the starts with the latents of x_in, and their MAPE."""
    encoder = Encoder(
        session.accelerator.unwrap_model(session.model).eval(),
        name=name,
        input_size=(settings.size, settings.size),
        mean=MEAN,
        std=STD,
    )
    fast = prepare(encoder)
    images, mapes = [], []
    for first in range(0, len(x_in), AT_ONCE):
        tell(name, first, len(x_in))
        rows = slice(first, first + AT_ONCE)
        inside, start = (dequantize(s[rows]).to(session.accelerator.device) for s in (x_in, starts))
        with torch.no_grad():
            target = encoder(inside)
        seeds = [sample_seed(settings.seed, name, first + i) for i in range(len(inside))]
        found = attack(fast, start, target, eps=settings.eps[0], steps=STEPS, seed=seeds, pixels=256, check=False)
        images.append(quantize(found.image).cpu())
        mapes.append(found.mape.cpu())
    return torch.cat(images), torch.cat(mapes)


@torch.no_grad()
def _compare(
    session: Session, x_in: Tensor, natural: Tensor, old: Tensor | None, new: Tensor, seed: int
) -> dict[str, Any]:
    def logits(images: Tensor) -> Tensor:
        parts = torch.split(dequantize(images), AT_ONCE)
        return torch.cat([session.model(session.normalise(x.to(session.accelerator.device))).cpu() for x in parts])

    inside = logits(x_in)
    sets = {"natural": natural, **({} if old is None else {"old": old}), "new": new}
    outside = {name: logits(images) for name, images in sets.items()}
    return {
        kind.__name__: {
            name: asdict(measure(kind.score(inside), kind.score(found), seed=seed)) for name, found in outside.items()
        }
        for kind in (MaxSoftmax, EnergyBased)
    }


def _places(outliers: Outliers, odd: int, count: int) -> Tensor:
    """Natural outliers at even, or odd, places, evenly spaced and as often as needed."""
    natural = sum(map(len, outliers.sources))
    places = list(range(odd, natural, 2))
    chosen = [places[i] for i in evenly(len(places), count)]
    return torch.stack([outliers.get(chosen[i % len(chosen)]) for i in range(count)])


def _some(there: int, count: int, number: int) -> list[int]:
    """Other training images in each round."""
    return torch.randperm(there, generator=torch.Generator().manual_seed(number))[:count].tolist()
