"""How well two scores of the network in training separate attacked images from test images."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from torch import Tensor

from oodattack.auditing.data import in_turn
from oodattack.auditing.measures import Judge
from oodattack.core.pixels import dequantize
from oodattack.engines import in_batches
from oodattack.pipelines.round_attacks import BATCH_SIZE
from oodattack.pipelines.round_images import RoundImages
from oodattack.training.session import Session


@torch.no_grad()
def score_sets(session: Session, images: RoundImages, sets: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By kind: scores of ``inside``, of the held-out outliers (``natural``, each once), and of each attacked set."""
    every = {"inside": images.inside, "natural": images.held_out[: len(set(images.groups))], **sets}
    logits = {
        name: in_small_batches(
            pixels, lambda x: session.model(session.normalise(x.to(session.accelerator.device))).cpu()
        )
        for name, pixels in every.items()
    }
    return {
        kind.__name__: {name: kind.score(found) for name, found in logits.items()} for kind in (MaxSoftmax, EnergyBased)
    }


def compare(scores: Mapping[str, Tensor], images: RoundImages, seed: int) -> dict[str, Any]:
    """The measures of the held-out outliers and of the sets attacked from them, by one kind of score."""
    judge, before = Judge(scores["inside"], seed), scores["natural"]
    starts = in_turn(before, len(images.groups))
    found = {"natural": judge.measure(before)}
    for name, attacked in scores.items():
        if name not in ("inside", "natural"):
            found[name] = judge.measure(attacked, starts=starts, clusters=images.groups)
    return {name: asdict(measured) for name, measured in found.items()}


def in_small_batches(images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of images (B, 3, H, W) in [0, 1] to (N, 3, H, W) uint8, in batches that fit into memory."""
    parts = in_batches(range(len(images)), BATCH_SIZE, lambda rows: compute(dequantize(images[rows.start : rows.stop])))
    return torch.cat([part for _, part in parts])
