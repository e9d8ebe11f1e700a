"""What all detectors on flows read: one vector of numbers, of which each detector computes only its own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.detectors.base import Loader
from oodattack.detectors.draws import seeded_by
from oodattack.detectors.likelihood.code_lengths import CodeLengths
from oodattack.detectors.likelihood.models import ImageModels
from oodattack.detectors.likelihood.passes import Pass
from oodattack.detectors.subjects.passes import Passes, needs_gradient
from oodattack.engines import compute_images

READING = "likelihoods"  # what an informed attack on all of these detectors is called

Read = Mapping[str, Tensor]
"""Columns (B, k) of what is read, by the name of their group."""

GROUPS: Mapping[str, Callable[[Pass], Tensor]] = {
    "log_p": lambda at: at.log_p,
    "log_dets": lambda at: at.log_dets,
    "members": lambda at: at.members,
    "background": lambda at: at.background,
    "lengths": lambda at: at.lengths,
    "gradient": lambda at: at.gradient,
}


class Likelihoods:
    """Maps images (B, 3, H, W) in [0, 1] to all numbers that detectors on flows read, (B, K), differentiably.

    The numbers come in groups: log-densities (``log_p``) and log-determinants (``log_dets``) of each level of the first
    flow; the log-likelihoods under the other flows (``members``) and under the ``background`` model; the ``lengths`` of
    the image under lossless codecs, in bytes; and the logarithm of the norm of the input gradient of the first flow's
    log-likelihood (``gradient``). Likelihoods are in nats, gradients for pixels in [0, 1].
    Groups whose model is missing have no columns.

    Models are evaluated once for the same images, under the conditions of `Passes`. They are put in evaluation mode and
    frozen.

    Args:
        models: the trained models.
        dequantise: number N of draws of the dequantisation noise u over which scores average every number that is read;
            0 for u = 0.5, which makes scores deterministic functions of the pixels.

    Attributes:
        sizes: number of columns of each group, in order.
        code_lengths: the lengths of encoded images; their gradient improves once a detector fits it.

    Raises:
        InputError: for a negative N.

    >>> from oodattack.networks import Glow
    >>> flow, x = Glow(8, steps=1, levels=2, width=4), torch.rand(4, 3, 8, 8)
    >>> _ = flow(x)  # initialises it, as training would
    >>> likelihoods = Likelihoods(ImageModels((flow,)))
    >>> list(likelihoods.sizes)
    ['log_p', 'log_dets', 'members', 'background', 'lengths', 'gradient']
    >>> likelihoods.scored(x, ["log_p"])["log_p"].shape
    torch.Size([4, 2])
    """

    def __init__(self, models: ImageModels, dequantise: int = 0) -> None:
        if dequantise < 0:
            raise InputError(f"expected dequantise to be a number of draws, or 0 for the middle, got {dequantise}")
        self.models, self.dequantise = models, dequantise
        self.code_lengths = CodeLengths()
        flows = models.flows
        levels = len(flows[0].latent_shapes) if flows else 0
        self.sizes = {
            "log_p": levels,
            "log_dets": levels,
            "members": max(len(flows) - 1, 0),
            "background": int(models.background is not None),
            "lengths": len(self.code_lengths.names) if flows else 0,
            "gradient": min(len(flows), 1),
        }
        for _, model in models.named():
            model.eval().requires_grad_(False)
        self._middle, self._drawn = Passes[Pass](), Passes[list[Pass]]()
        self._scored: Passes[dict[str, Tensor]] = Passes()
        self._collected: WeakKeyDictionary[Any, dict[str, Tensor]] = WeakKeyDictionary()

    def __call__(self, images: Tensor) -> Tensor:
        """Everything, (B, K), with u = 0.5."""
        at = self._at_middle(images)
        return torch.cat([GROUPS[name](at) for name, size in self.sizes.items() if size], dim=1)

    def split(self, reads: Tensor) -> Read:
        """The groups of all columns (B, K)."""
        parts = torch.split(reads, list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, parts, strict=True))

    def scored(self, images: Tensor, names: Sequence[str]) -> Read:
        """Some groups as scores are computed from them: the same values for the same image in every call and batch."""
        if not self.dequantise:
            at = self._at_middle(images)
            return {name: GROUPS[name](at) for name in names}
        means = self._scored(lambda _: {}, images)
        missing = [name for name in names if name not in means]
        if missing:
            rows = [self._seeded_mean(image, missing) for image in torch.split(images, 1)]
            means.update({name: torch.cat([row[name] for row in rows]) for name in missing})
        return {name: means[name] for name in names}

    def sampled(self, images: Tensor, names: Sequence[str]) -> Read:
        """Some groups as attacks evaluate them, with a gradient: like `scored`, but with new draws of u, if any."""
        if not self.dequantise:
            return self.scored(images, names)
        # Without a gradient, `Passes` would return the draws of the previous call.
        passes = self._drawn(self._draw, images) if needs_gradient(images) else self._draw(images)
        return {name: torch.stack([GROUPS[name](at) for at in passes]).mean(0) for name in names}

    def collect(self, loader: Loader) -> Read:
        """Log-densities and log-determinants (N, L) of all images of a loader, as scores see them, on the CPU.

        The result is kept for as long as the loader exists, for the next detector that is fitted to it.
        """
        names = ("log_p", "log_dets")
        try:
            kept = self._collected.setdefault(loader, {})
        except TypeError:  # a loader such as a list has no weak references
            kept = {}
        if not kept:
            device = next(self.models.flow.parameters()).device
            with torch.no_grad():
                rows = [
                    compute_images(lambda part: torch.cat(list(self.scored(part, names).values()), dim=1).cpu(), batch)
                    for batch in (images.to(device) for images, _ in loader)
                ]
            kept.update(zip(names, torch.cat(rows).chunk(2, dim=1), strict=True))
        return kept

    def _at_middle(self, images: Tensor) -> Pass:
        return self._middle(partial(Pass, self.models, self.code_lengths), images)

    def _draw(self, images: Tensor) -> list[Pass]:
        """Passes with new draws, from torch's generator on the CPU, whatever the device."""
        return [
            Pass(self.models, self.code_lengths, images, torch.rand(images.shape).to(images))
            for _ in range(self.dequantise)
        ]

    def _seeded_mean(self, image: Tensor, names: Sequence[str]) -> Read:
        """Means (1, k) over draws that depend on the image (1, 3, H, W) alone."""
        with seeded_by(image):
            noise = torch.rand(self.dequantise, *image.shape[1:]).to(image)
        at = Pass(self.models, self.code_lengths, image.expand_as(noise), noise)
        return {name: GROUPS[name](at).mean(0, keepdim=True) for name in names}
