"""Detectors that read several layers, and thus more than z."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from pytorch_ood.detector import NACUE, Gram, MultiMahalanobis
from pytorch_ood.detector.nac import _bin_indices_geometric
from torch import Tensor, nn

from oodattack.detectors.adapted import consecutive, every
from oodattack.detectors.base import Loader
from oodattack.detectors.make import Make
from oodattack.detectors.subjects import Subject
from oodattack.detectors.wrapped import Wrapped, differentiable
from oodattack.encoders import Encoder

GRAM_ORDERS = range(1, 11)
DECAY = 0.8  # per bin; NACUE has 50


def layer_detectors() -> dict[str, Make]:
    """MultiMahalanobis (Lee et al. 2018, the paper's [5]), Gram matrices, and neuron activation coverage.

    >>> list(layer_detectors())
    ['MultiMahalanobis', 'Gram', 'NACUE']
    """
    return {"MultiMahalanobis": LayersMahalanobis, "Gram": LayersGram, "NACUE": Coverage}


class LayersMahalanobis(Wrapped):
    """The Mahalanobis distance of each layer's spatial mean, summed. Needs layers, but no classification head."""

    def __init__(self, subject: Subject) -> None:
        self.layers = subject.layers
        self.parts: tuple[int, ...] = tuple(shape[0] for shape in self.layers.shapes[:-1])
        super().__init__(MultiMahalanobis([nn.Identity() for _ in self.parts]), subject)

    def _pooled(self, rows: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)) for maps in self.layers.split(rows)[:-1]], dim=1)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        means, labels = self.subject.collect(self.layers, loader, self._pooled)
        self.inner.fit_structured(list(torch.split(means, list(self.parts), dim=1)), consecutive(labels))
        self.inner.to(self.subject.device)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with torch.no_grad():
            return self.judge(self.reads(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the spatial means of all layers."""
        return self._pooled(self.layers.flat(images))

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        function = differentiable(self.inner, "predict_structured")
        scores: Tensor = function(list(torch.split(reads, list(self.parts), dim=1)))
        return scores


class LayersGram(Wrapped):
    """Row sums of each block's Gram matrices of order 1 to 10, compared with their range in each class.

    The orders are those of Sastry & Oore 2020, who read every convolution and activation. Here it is every block, at a
    fraction of the cost; docs/sanity.md compares how well both detect.
    """

    def __init__(self, subject: Subject) -> None:
        self.logits, self.layers, self.classes = subject.logits, subject.blocks, subject.head.out_features
        self.widths = [shape[0] for shape in self.layers.shapes[:-1]]
        # The library applies one layer after another. Here the network runs once, in the first "layer", and each of the
        # others returns what that pass recorded.
        self._recorded: list[Tensor] = []
        steps: list[Callable[[Tensor], Tensor]] = [self._first]
        steps += [lambda _before, place=place: self._recorded[place] for place in range(1, len(self.widths))]  # type: ignore[misc]
        super().__init__(_Gram(lambda _last: self._recorded[-1], steps, self.classes, list(GRAM_ORDERS)), subject)
        self.parts: tuple[int, ...] = (*(width for width in self.widths for _ in GRAM_ORDERS), self.classes)

    def _first(self, images: Tensor) -> Tensor:
        self._recorded = self.layers.parts(images)
        return self._recorded[0]

    def fit(self, loader: Loader) -> None:
        """See `Detector`; the tenth of the images that are held out is the same in every fit."""
        every(self.classes)(self.subject.collect(self.logits, loader)[1])
        self.inner.to(self.subject.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inner.fit(loader)
        self._recorded = []

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.judge(self.reads(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the row sums ``(F^p F^pT)^(1/p)`` of every layer and order p, and the logits."""
        *maps, logits = self.layers.parts(images)
        return torch.cat([*(rows for values in maps for rows in _gram_rows(values, GRAM_ORDERS)), logits], dim=1)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`: how far these row sums are outside the range of the predicted class."""
        *layers, logits = torch.split(
            reads, [*(len(GRAM_ORDERS) * width for width in self.widths), self.classes], dim=1
        )
        best, total = logits.argmax(1), torch.zeros_like(reads[:, 0])
        fit = self.inner
        for rows, lows, highs, norm in zip(layers, fit.feature_min, fit.feature_max, fit.layer_norm, strict=True):
            low, high = (torch.cat(bounds, dim=1).to(reads)[best] for bounds in (lows, highs))
            total = total + fit._deviation(rows, low, high) / norm.to(reads)
        return total


class _Gram(Gram):  # type: ignore[misc]
    """The library's Gram with row sums that neither overflow nor need the matrices themselves."""

    @staticmethod
    def _gram_vector(feature: Tensor, p: int) -> Tensor:
        return _gram_rows(feature.detach(), [p])[0]


class Coverage(Wrapped):
    """Neuron activation coverage: how often activation times gradient of a neuron had this value on training images.

    Hooks and gradients act on the network itself, because they need the tensors of its own graph.
    """

    def __init__(self, subject: Subject) -> None:
        self.logits, self.encoder = subject.logits, subject.encoder
        self.parts: tuple[int, ...] = tuple(shape[0] for shape in subject.layers.shapes[:-1])
        self.modules = [self.encoder.model.get_submodule(name) for name in subject.layer_names]
        super().__init__(NACUE(_Logits(self.encoder), self.modules), subject)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        self.inner.to(self.subject.device).fit(_WithGradient(loader))
        self.inner._captured = []  # the graph of the last batch

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = self.inner.predict(images.detach().requires_grad_(True))
        self.inner._captured = []
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: for every layer, the spatial mean of activation times gradient.

        The gradient is that of the divergence of the softmax from the uniform distribution.
        """
        seen: list[Tensor] = []
        handles = [module.register_forward_hook(lambda _m, _i, output: seen.append(output)) for module in self.modules]
        try:
            with torch.enable_grad():
                x = images if images.requires_grad else images.detach().requires_grad_(True)
                logits = self.encoder.model(self.encoder.normalise(x))
        finally:
            for handle in handles:
                handle.remove()
        with torch.enable_grad():
            loss = -(logits.softmax(1) + 1e-12).log().mean(1).sum()
            gradients = torch.autograd.grad(loss, seen, create_graph=images.requires_grad)
            products = [value * gradient for value, gradient in zip(seen, gradients, strict=True)]
            found = torch.cat([product.mean((2, 3)) for product in products], dim=1)
        return found if images.requires_grad else found.detach()

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`. The score counts, so its gradient is that of `_smooth` coverage."""
        total = torch.zeros_like(reads[:, 0])
        for part, alpha, stats in zip(
            torch.split(reads, list(self.parts), dim=1), self.inner.alpha, self.inner._stats, strict=True
        ):
            covered = (stats.counts.to(reads) / stats.o_star).clamp(max=1)
            bins = _bin_indices_geometric(torch.sigmoid(alpha * part.detach()), m=stats.m)
            coverage = covered.gather(1, bins.T).T
            if torch.is_grad_enabled() and reads.requires_grad:
                smooth = _smooth(covered, alpha * part)
                coverage = coverage + (smooth - smooth.detach())
            total = total - coverage.mean(1)
        return total


def _smooth(covered: Tensor, states: Tensor) -> Tensor:
    """A continuous approximation (B, N) of the coverage of neurons.

    Every bin gets the highest coverage of all bins, each reduced by a factor of `DECAY` per bin of distance. Between
    centres of bins, and beyond the outermost ones, the approximation is linear. It thus rises towards bins that are
    covered, however far they are.

    Args:
        covered: (N, M) coverage of the bins of each neuron, in [0, 1].
        states: (B, N) states of the neurons before the sigmoid.
    """
    count = covered.shape[1]
    place = torch.arange(count, device=covered.device)
    decay = DECAY ** (place[:, None] - place).abs().to(covered)
    table = (covered[:, None, :] * decay).amax(2)  # (N, M)
    # The library's bins, before the sigmoid: from 1e-6 to 1/2 they grow geometrically, and from there mirrored.
    left = torch.logspace(-6, math.log10(0.5), count // 2 + 1, dtype=torch.float64).logit()
    edges = torch.cat([left, -left.flip(0)[1:]]).to(covered)
    centres = (edges[1:] + edges[:-1]) / 2
    after = torch.searchsorted(centres, states.detach().contiguous()).clamp(1, len(centres) - 1)
    low, high = (table.gather(1, index.T).T for index in (after - 1, after))
    share = (states - centres[after - 1]) / (centres[after] - centres[after - 1])
    return low + share * (high - low)


class _Logits(nn.Module):
    """The classifier itself, from images in [0, 1] to logits."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder.model(self.encoder.normalise(x))
        return logits


class _WithGradient:
    """A loader whose images require a gradient, so that a frozen network has a graph."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images.detach().requires_grad_(True), labels


def _gram_rows(maps: Tensor, orders: Sequence[int]) -> list[Tensor]:
    """Row sums ``(F^p F^pT)^(1/p)`` of Gram matrices of activations (B, C, ...), (B, C) for each order p.

    The sum over the columns is taken first, at a cost of C instead of C^2. Every channel is divided by its maximum, and
    the result multiplied by it again, because 20th powers of activations leave the range of float32.
    """
    values = maps.flatten(2)
    peaks = values.detach().abs().amax(2, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)  # (B, C, 1)
    whole = peaks.amax(1, keepdim=True)
    relative, unit = (peaks / whole).transpose(1, 2), values / peaks
    power, found = torch.ones_like(unit), []
    for p in range(1, max(orders) + 1):
        power = power * unit
        if p in orders:
            rows = (power @ (relative**p @ power).transpose(1, 2))[:, :, 0]
            # The derivative of the root is infinite at 0.
            root = rows.sign() * rows.abs().clamp_min(1e-30) ** (1 / p)
            found.append(root * (peaks * whole)[:, :, 0])
    return found
