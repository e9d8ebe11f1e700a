"""Is x_out still out-of-distribution? Distance and similarity to the start, and the view of other encoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_ood.detector import KNN
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from oodattack.auditing.bench import Bench
from oodattack.auditing.data import ImageSet
from oodattack.auditing.inputs import IN, TARGETS, Inputs
from oodattack.auditing.measures import threshold
from oodattack.auditing.plan import Attack
from oodattack.auditing.store import Audit
from oodattack.core.ball import distance
from oodattack.core.metrics import mape
from oodattack.core.pixels import dequantize, quantize
from oodattack.encoders import Encoder, load_encoder
from oodattack.engines import compute_images
from oodattack.images import fit
from oodattack.settings.audit import AuditSettings
from oodattack.settings.ball import NORMS

NEIGHBOUR = 50  # the distance to this nearest neighbour is the witness's score (Sun et al. 2022, for CIFAR)
SSIM_WINDOW = 11  # pixels (Wang et al. 2004)


def open_witnesses(settings: AuditSettings) -> dict[str, Encoder]:
    """Load the witnesses: encoders that are not attacked.

    Raises:
        InputError: if one of them cannot be loaded.
    """
    return {spec: load_encoder(spec, device=settings.device, trust=settings.trust).eval() for spec in settings.witness}


def still_outside(
    bench: Bench, witnesses: Mapping[str, Encoder], audit: Audit, attacks: Sequence[Attack], batch_size: int
) -> dict[str, Any]:
    """Compare the images of each latent attack at full steps with x_in and the starts: by pixels and by encoders.

    Returns:
        JSON values by attack; each is a median or a fraction over the samples. ``distance_l2`` and ``distance_linf``
        (pixels in [0, 1]), ``ssim_start`` and ``ssim_in`` (1 means equal; None for images smaller than the window of
        SSIM), and ``encoders``, one entry per encoder, the attacked one first: ``mape`` of z_out and ``mape_before`` of
        z'_out against z_in; ``nearer_start``, the fraction of images whose latent is nearer (L2) to that of the start
        than to that of x_in; ``flagged`` and ``flagged_start``, the fractions of x_out and of starts that are flagged
        as OOD by the distance to the 50th nearest neighbour among the features of the training images, at the threshold
        that accepts 95 % of the held-out images.
    """
    settings, inputs = bench.settings, bench.inputs
    wanted = [a for a in attacks if a.kind == "latent" and a.steps == settings.steps]
    starts = inputs.starts
    sets = {
        IN: inputs.inside,
        TARGETS: inputs.targets,
        **starts,
        **{attack.key: audit.read_images(attack.key, starts[attack.starts].names) for attack in wanted},
    }
    features = {settings.encoder: _Features(bench.subject.features.exact, inputs, sets, batch_size)}
    features |= {spec: _Features(witness, inputs, sets, batch_size) for spec, witness in witnesses.items()}
    return {
        attack.key: {
            **_similarity(inputs.targets, starts[attack.starts], sets[attack.key], batch_size),
            "encoders": {name: found.compare(attack) for name, found in features.items()},
        }
        for attack in wanted
    }


def _similarity(x_in: ImageSet, start: ImageSet, out: ImageSet, batch_size: int) -> dict[str, float | None]:
    found: dict[str, list[Tensor]] = {"distance_l2": [], "distance_linf": [], "ssim_start": [], "ssim_in": []}
    for parts in zip(*(s.batches(batch_size, torch.device("cpu")) for s in (x_in, start, out)), strict=True):
        inside, begin, end = parts
        for norm in ("l2", "linf"):
            found[f"distance_{norm}"].append(distance(end, begin, NORMS[norm]))
        if min(end.shape[2:]) >= SSIM_WINDOW:
            for name, other in (("start", begin), ("in", inside)):
                similarity = ssim(end, other, data_range=1.0, reduction="none")
                assert isinstance(similarity, Tensor)  # noqa: S101 -- a tuple only if asked for the full image
                found[f"ssim_{name}"].append(similarity.reshape(-1))
    return {name: float(torch.cat(parts).quantile(0.5)) if parts else None for name, parts in found.items()}


class _Features:
    """The latents of all sets in one encoder, and their nearest-neighbour distances to the training images."""

    def __init__(self, encoder: Encoder, inputs: Inputs, sets: Mapping[str, ImageSet], batch_size: int) -> None:
        self.encoder = encoder
        self.latents = {
            name: torch.cat([self._of(x) for x in images.batches(batch_size, encoder.mean.device)])
            for name, images in sets.items()
        }
        bank = torch.cat([self._of(images) for images, _ in inputs.train])
        judge = KNN(None, k=min(NEIGHBOUR, len(bank))).fit_features(bank, torch.zeros(len(bank), dtype=torch.long))
        self.scores = {name: judge.predict_features(z).double() for name, z in self.latents.items()}
        self.limit = threshold(self.scores[IN])

    @torch.no_grad()
    def _of(self, images: Tensor) -> Tensor:
        size = self.encoder.input_size
        if tuple(images.shape[2:]) != tuple(size):  # resized as images of the encoder's own size would be
            resized = torch.stack([fit(image, size) for image in quantize(images).cpu()])
            images = dequantize(resized).to(self.encoder.mean.device)
        return compute_images(self.encoder, images).cpu()

    def compare(self, attack: Attack) -> dict[str, float]:
        """See `still_outside`."""
        out, inside, start = (self.latents[name] for name in (attack.key, TARGETS, attack.starts))
        return {
            "mape": float(mape(out, inside).nanquantile(0.5)),
            "mape_before": float(mape(start, inside).nanquantile(0.5)),
            "nearer_start": _share((out - start).norm(dim=1) < (out - inside).norm(dim=1)),
            "flagged": _share(self.scores[attack.key] > self.limit),
            "flagged_start": _share(self.scores[attack.starts] > self.limit),
        }


def _share(which: Tensor) -> float:
    return float(which.double().mean())
