"""A normalising flow on the features z."""

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.detectors.base import Judged, Loader, NotApplicableError
from oodattack.detectors.subjects import Subject

MAX_DIMS = 64  # principal components that the flow models; the rest of z gets a Gaussian density
TRANSFORMS, HIDDEN, BATCH = 2, (128, 128), 256
EPOCHS, PATIENCE, RATE = 20, 3, 2e-3
LEAST = 20  # training images
FLOOR = 1e-2  # least standard deviation: of a feature, relative to their mean; of a component, to the largest one


class FeatureFlow(Judged):
    """``-log p(z)`` under a neural spline flow of the features, in nats (flow: zuko; Durkan et al. 2019).

    It reads z alone, so Algorithm 1 applies to it unchanged. Each feature is standardised; the flow models up to 64
    whitened principal components, and what they leave of z has an isotropic Gaussian density, so that p is a density of
    the whole z (Tipping and Bishop 1999). A tenth of the training images is held out: it gives the variance of that
    rest, which is too small on images that the components were found on, and decides when to stop. The flow begins as
    the identity, so on the images held out it is never less likely than the Gaussian.

    Outside [-5, 5] standard deviations the spline is the identity: far from the data the score grows as a Gaussian's.

    Raises:
        NotApplicableError: without the package zuko.

    >>> from oodattack.detectors import make_subject
    >>> from oodattack.encoders import load_encoder
    >>> subject = make_subject(load_encoder("python:tests.factories:tiny"))
    >>> images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> detector = FeatureFlow(subject)
    >>> detector.fit([(images, torch.zeros(40))])
    >>> detector.score(images[:3]).shape, bool((detector.score(images * 0) > detector.score(images).max()).all())
    (torch.Size([3]), True)
    """

    reading = "features"

    def __init__(self, subject: Subject) -> None:
        if find_spec("zuko") is None:
            raise NotApplicableError("it needs zuko: pip install 'oodattack[flows]'")
        self.subject = subject
        self.flow: nn.Module

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, (B, D)."""
        return self.subject.features.flat(images)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        std, axes, scale, rest = (value.to(reads) for value in (self.std, self.axes, self.scale, self.rest))
        inner, outside = _split(reads, self.mean.to(reads), std, axes)
        whitened = (inner / scale).to(next(self.flow.parameters()))
        log_prob: Tensor = self.flow().log_prob(whitened).to(reads)
        count = reads.shape[1] - axes.shape[1]
        gaussian = -(outside / rest + count * (2 * math.pi * rest).log()) / 2
        return -(log_prob + gaussian - scale.log().sum() - std.log().sum())

    def fit(self, loader: Loader) -> None:
        """See `Detector`.

        Raises:
            InputError: for fewer than 20 training images.
        """
        z = self.subject.collect(self.subject.features, loader)[0].flatten(1).double()
        if len(z) < LEAST:
            raise InputError(f"expected at least {LEAST} training images for a flow, got {len(z)}; name more images")
        z = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))]
        held_out, z = z[: len(z) // 10], z[len(z) // 10 :]
        self._whiten(z, held_out)
        rows, others = (
            (_split(part, self.mean, self.std, self.axes)[0] / self.scale).float() for part in (z, held_out)
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.flow = _build(rows.shape[1])
            _train(self.flow, rows, others)
        self.flow.to(self.subject.device)

    def _whiten(self, z: Tensor, held_out: Tensor) -> None:
        """Find the principal components of z, and the variance that they leave of images held out."""
        self.mean, std = z.mean(0), z.std(0, correction=0)
        self.std = std.clamp_min(FLOOR * float(std.mean()) or FLOOR)  # a constant feature has none
        standard = (z - self.mean) / self.std
        variances, axes = torch.linalg.eigh(standard.T @ standard / len(z))
        count = min(MAX_DIMS, z.shape[1], len(z) // 4)
        self.axes, scale = axes.flip(1)[:, :count].contiguous(), variances.flip(0)[:count].clamp_min(0).sqrt()
        self.scale = scale.clamp_min(FLOOR * float(scale.max()) or FLOOR)
        outside = _split(held_out, self.mean, self.std, self.axes)[1].mean() / max(z.shape[1] - count, 1)
        self.rest = outside.clamp_min(FLOOR**2)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        names = ("mean", "std", "axes", "scale", "rest")
        return {"flow": self.flow.state_dict(), **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.mean, self.std, self.axes, self.scale, self.rest = (
            state[name] for name in ("mean", "std", "axes", "scale", "rest")
        )
        with torch.random.fork_rng(devices=[]):  # its initial weights are replaced
            self.flow = _build(len(self.scale)).requires_grad_(False)
        self.flow.load_state_dict(state["flow"])
        self.flow.to(self.subject.device)


def _split(z: Tensor, mean: Tensor, std: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """The principal components (B, K) of standardised features, and the squared length (B,) of what they leave."""
    standard = (z - mean) / std
    inner = standard @ axes
    outside = standard - inner @ axes.T if axes.shape[0] > axes.shape[1] else torch.zeros_like(standard)
    return inner, outside.square().sum(1)


def _build(dims: int) -> nn.Module:
    """A flow that is the identity."""
    import zuko

    flow: nn.Module = zuko.flows.NSF(dims, transforms=TRANSFORMS, hidden_features=HIDDEN)
    for name, parameter in flow.named_parameters():
        if f"hyper.{2 * len(HIDDEN)}." in name or ".phi." in name:  # the last layer; of one dimension, the spline
            nn.init.zeros_(parameter)
    return flow


def _train(flow: nn.Module, rows: Tensor, held_out: Tensor) -> None:
    """Fit by maximum likelihood, and keep the weights that are best on the rows held out."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)

    def evaluate() -> float:
        with torch.no_grad():
            return float(-flow().log_prob(held_out).mean())

    best, weights, since = evaluate(), _copy(flow), 0
    for _ in range(EPOCHS):
        for part in torch.split(rows[torch.randperm(len(rows))], BATCH):
            optimizer.zero_grad()
            (-flow().log_prob(part).mean()).backward()
            optimizer.step()
        if (loss := evaluate()) < best:
            best, weights, since = loss, _copy(flow), 0
        else:
            since += 1
            if since == PATIENCE:
                break
    flow.load_state_dict(weights)
    flow.requires_grad_(False)


def _copy(flow: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in flow.state_dict().items()}


def feature_flow_detectors() -> dict[str, type[FeatureFlow]]:
    """The flow on features.

    >>> list(feature_flow_detectors())
    ['FeatureFlow']
    """
    return {"FeatureFlow": FeatureFlow}
