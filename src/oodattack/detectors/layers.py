"""Detectors that look at several layers: they see more than z."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_ood.detector import NACUE, Gram, MultiMahalanobis
from pytorch_ood.detector.nac import _bin_indices_geometric
from torch import Tensor, nn

from oodattack.detectors.adapted import differentiable, fitted_state, load_fitted_state, need_every_class
from oodattack.detectors.classifier import Classifier, View
from oodattack.detectors.detector import Loader
from oodattack.encoders.encoder import Encoder


def layer_detectors(classifier: Classifier) -> "dict[str, LayersMahalanobis | LayersGram | Coverage]":
    """MultiMahalanobis (Lee et al. 2018, the paper's [5]), Gram and neuron activation coverage; none without layers.

    >>> from oodattack.encoders import load_encoder
    >>> list(layer_detectors(Classifier(load_encoder("python:tests.factories:tiny"))))
    ['MultiMahalanobis', 'Gram', 'NACUE']
    """
    if classifier.layers is None:
        return {}
    return {
        "MultiMahalanobis": LayersMahalanobis(classifier, classifier.layers),
        "Gram": LayersGram(classifier, classifier.layers),
        "NACUE": Coverage(classifier, classifier.layers),
    }


class _Layers:
    """What the three have in common: a view of several layers, and state."""

    inner: Any
    reading: str

    def __init__(self, classifier: Classifier, layers: View) -> None:
        self.classifier, self.layers = classifier, layers
        self.widths = [shape[0] for shape in layers.shapes[:-1]]

    def state_dict(self) -> dict[str, Any]:
        """What was fitted."""
        return fitted_state(self.inner)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another has been fitted to."""
        load_fitted_state(self.inner, state)
        self.inner.to(self.classifier.encoder.mean.device)


class LayersMahalanobis(_Layers):
    """The Mahalanobis distance of each layer's spatial mean, summed."""

    def __init__(self, classifier: Classifier, layers: View) -> None:
        super().__init__(classifier, layers)
        self.inner = MultiMahalanobis([nn.Identity() for _ in self.widths])
        self.parts = tuple(self.widths)

    def _pooled(self, rows: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)) for maps in self.layers.split(rows)[:-1]], dim=1)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        means, labels = self.classifier.collect(self.layers, loader, self._pooled)
        classes = torch.unique(labels, return_inverse=True)[1]
        self.inner.fit_structured(list(torch.split(means, self.widths, dim=1)), classes)
        self.inner.to(self.classifier.encoder.mean.device)

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        with torch.no_grad():
            return self.judge(self.reads(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: the spatial means of all layers."""
        return self._pooled(self.layers.flat(images))

    def judge(self, reads: Tensor) -> Tensor:
        """The score of these means."""
        function = differentiable(self.inner, "predict_structured")
        scores: Tensor = function(list(torch.split(reads, self.widths, dim=1)))
        return scores


class LayersGram(_Layers):
    """Row sums of Gram matrices of each layer, compared with the range that each class has."""

    def __init__(self, classifier: Classifier, layers: View) -> None:
        super().__init__(classifier, layers)
        # The library runs layer on layer; here the network is run once, and each "layer" hands on what it gave.
        self._found: list[Tensor] = []
        steps: list[Callable[[Tensor], Tensor]] = [self._first]
        steps += [lambda _before, place=place: self._found[place] for place in range(1, len(self.widths))]  # type: ignore[misc]
        self.inner: Any = Gram(lambda _last: self._found[-1], steps, classifier.classes)
        self.poles = list(self.inner.num_poles_list)
        self.parts = (*(width for width in self.widths for _ in self.poles), classifier.classes)

    def _first(self, images: Tensor) -> Tensor:
        self._found = self.layers.parts(images)
        return self._found[0]

    def fit(self, loader: Loader) -> None:
        """See `Detector`; the held-out tenth that it draws is the same every time."""
        need_every_class(self.classifier.collect(self.classifier.logits, loader)[1], self.classifier)
        self.inner.to(self.classifier.encoder.mean.device)
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
        """The score of these row sums: how far they are out of the range of the predicted class."""
        *rows, logits = torch.split(reads, list(self.parts), dim=1)
        best, total, number = logits.argmax(1), torch.zeros_like(reads[:, 0]), iter(rows)
        for layer, norm in enumerate(self.inner.layer_norm):
            for pole in range(len(self.poles)):
                low, high = (bounds[layer][pole].to(reads)[best] for bounds in self._bounds())
                total = total + self.inner._deviation(next(number), low, high) / norm.to(reads)
        return total

    def _bounds(self) -> Iterator[Any]:
        yield from (self.inner.feature_min, self.inner.feature_max)


class Coverage(_Layers):
    """Neuron activation coverage: how often a neuron's activation times its gradient was seen at that value.

    Both hooks and gradients act on the network itself, for they need the tensors of its own graph.
    """

    def __init__(self, classifier: Classifier, layers: View) -> None:
        super().__init__(classifier, layers)
        self.encoder = classifier.encoder
        self.modules = [self.encoder.model.get_submodule(name) for name in classifier.layer_names]
        self.inner = NACUE(_Logits(self.encoder), self.modules)
        self.parts = tuple(self.widths)

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        self.inner.to(self.encoder.mean.device).fit(_WithGradient(loader))
        self.inner._captured = []  # the last batch's graph

    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        scores: Tensor = self.inner.predict(images.detach().requires_grad_(True))
        self.inner._captured = []
        return scores.cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: of every layer the spatial mean of activation times gradient of the logits' KL divergence."""
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
            pairs = zip(seen, gradients, strict=True)
            found = torch.cat([(value * slope).mean((2, 3)) for value, slope in pairs], dim=1)
        return found if images.requires_grad else found.detach()

    def judge(self, reads: Tensor) -> Tensor:
        """The score of these products; it counts, and has no gradient."""
        total = torch.zeros_like(reads[:, 0])
        for part, alpha, stats in zip(
            torch.split(reads, list(self.parts), dim=1), self.inner.alpha, self.inner._stats, strict=True
        ):
            bins = _bin_indices_geometric(torch.sigmoid(alpha * part.detach()), m=stats.m)
            count = stats.counts.to(reads.device).gather(1, bins.T).T.to(reads)
            total = total - (count / stats.o_star).clamp(max=1).mean(1)
        return total


class _Logits(nn.Module):
    """The classifier itself, from images in [0, 1] to logits."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder.model(self.encoder.normalise(x))
        return logits


class _WithGradient:
    """A loader whose images ask for a gradient, so that a frozen network has a graph."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images.detach().requires_grad_(True), labels


def _gram_rows(values: Tensor, p: int) -> Tensor:
    """Row sums of the p-th order Gram matrix of (B, C, N) activations, (B, C), as the library computes them."""
    power = values**p
    rows = (power @ power.transpose(1, 2)).sum(2)
    # The root has no finite slope at 0.
    return rows.sign() * rows.abs().clamp_min(1e-12) ** (1 / p)
