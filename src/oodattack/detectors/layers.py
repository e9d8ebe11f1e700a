"""Detectors that read several layers, and thus more than z."""

import math
from collections.abc import Callable, Iterator

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
    """Row sums of each layer's Gram matrices, compared with their range in each class."""

    def __init__(self, subject: Subject) -> None:
        self.logits, self.layers, self.classes = subject.logits, subject.layers, subject.head.out_features
        widths = [shape[0] for shape in self.layers.shapes[:-1]]
        # The library applies one layer after another. Here the network runs once, in the first "layer", and each of the
        # others returns what that pass recorded.
        self._recorded: list[Tensor] = []
        steps: list[Callable[[Tensor], Tensor]] = [self._first]
        steps += [lambda _before, place=place: self._recorded[place] for place in range(1, len(widths))]  # type: ignore[misc]
        super().__init__(Gram(lambda _last: self._recorded[-1], steps, self.classes), subject)
        self.poles = list(self.inner.num_poles_list)
        self.parts: tuple[int, ...] = (*(width for width in widths for _ in self.poles), self.classes)

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

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        *maps, logits = self.layers.parts(images)
        scores: Tensor = self.inner.predict_structured(logits, maps)
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the row sums ``(F^p F^pT)^(1/p)`` of every layer and pole p, and the logits."""
        *maps, logits = self.layers.parts(images)
        return torch.cat([_gram_rows(values.flatten(2), p) for values in maps for p in self.poles] + [logits], dim=1)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`: how far these row sums are outside the range of the predicted class."""
        *rows, logits = torch.split(reads, list(self.parts), dim=1)
        best, total, number = logits.argmax(1), torch.zeros_like(reads[:, 0]), iter(rows)
        bounds = (self.inner.feature_min, self.inner.feature_max)
        for layer, norm in enumerate(self.inner.layer_norm):
            for pole in range(len(self.poles)):
                low, high = (bound[layer][pole].to(reads)[best] for bound in bounds)
                total = total + self.inner._deviation(next(number), low, high) / norm.to(reads)
        return total


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

    Every bin gets the highest coverage of all bins, reduced by `DECAY` for each bin of distance; between the centres of
    bins, and beyond the outermost ones, it is linear. So it falls towards no bin that is well covered, and it has a slope
    however far the nearest one is.

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


def _gram_rows(values: Tensor, p: int) -> Tensor:
    """Row sums of the p-th order Gram matrix of (B, C, N) activations, (B, C), as the library computes them."""
    power = values**p
    rows = (power @ power.transpose(1, 2)).sum(2)
    # The derivative of the root is infinite at 0.
    return rows.sign() * rows.abs().clamp_min(1e-12) ** (1 / p)
