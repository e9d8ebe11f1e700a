"""A normalising flow on the features z."""

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError
from oodattack.detectors.base import Detector, Loader, NotApplicableError
from oodattack.detectors.subjects import Subject

MAX_DIMS = 64  # principal components that the flow models; the rest of z gets a Gaussian density
TRANSFORMS, HIDDEN, BATCH = 3, (128, 128), 256
EPOCHS, PATIENCE, RATE = 30, 3, 2e-3
LEAST = 20  # training images
FLOOR = 1e-6  # of a variance, relative to the largest one


class FeatureFlow(Detector):
    """``-log p(z)`` under a neural spline flow of the features, in nats (flow: zuko; Durkan et al. 2019).

    It reads z alone, so Algorithm 1 applies to it unchanged. The flow models up to 64 whitened principal components;
    what they leave of z has an isotropic Gaussian density, so that p is a density of the whole z. A tenth of the
    training images decides when to stop.

    Raises:
        NotApplicableError: without the package zuko.
    """

    reading = "features"

    def __init__(self, subject: Subject) -> None:
        if find_spec("zuko") is None:
            raise NotApplicableError("it needs zuko: pip install 'oodattack[flows]'")
        self.subject = subject
        self.flow: nn.Module

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        return self.judge(self.reads(images)).cpu().double()

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: z, (B, D)."""
        return self.subject.features.flat(images)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        mean, axes, scale, rest = (value.to(reads) for value in (self.mean, self.axes, self.scale, self.rest))
        centred = reads - mean
        inner = centred @ axes
        count = reads.shape[1] - inner.shape[1]
        outside = (centred - inner @ axes.T).square().sum(1)
        gaussian = -(outside / rest + count * (2 * math.pi * rest).log()) / 2 if count else torch.zeros_like(outside)
        return -(self._log_prob(inner / scale) - scale.log().sum() + gaussian)

    def _log_prob(self, whitened: Tensor) -> Tensor:
        flow = self.flow.to(whitened.device)
        found: Tensor = flow().log_prob(whitened)
        return found

    def fit(self, loader: Loader) -> None:
        """See `Detector`.

        Raises:
            InputError: for fewer than 20 training images.
        """
        z = self.subject.collect(self.subject.features, loader)[0].flatten(1).double()
        if len(z) < LEAST:
            raise InputError(f"expected at least {LEAST} training images for a flow, got {len(z)}; name more images")
        self._whiten(z)
        rows = ((z - self.mean) @ self.axes / self.scale).float()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.flow = _build(rows.shape[1])
            _train(self.flow, rows[torch.randperm(len(rows))])
        self.flow.eval().requires_grad_(False)

    def _whiten(self, z: Tensor) -> None:
        """Find the principal components, and the mean variance outside them."""
        self.mean = z.mean(0)
        variances, axes = torch.linalg.eigh((z - self.mean).T @ (z - self.mean) / len(z))
        variances = variances.flip(0).clamp_min(FLOOR * float(variances.max()) or FLOOR)
        count = min(MAX_DIMS, z.shape[1], len(z) // 4)
        self.axes, self.scale = axes.flip(1)[:, :count].contiguous(), variances[:count].sqrt()
        self.rest = variances[count:].mean() if count < len(variances) else torch.ones((), dtype=z.dtype)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        names = ("mean", "axes", "scale", "rest")
        return {"flow": self.flow.state_dict(), **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.mean, self.axes, self.scale, self.rest = (state[name] for name in ("mean", "axes", "scale", "rest"))
        self.flow = _build(len(self.scale)).eval().requires_grad_(False)
        self.flow.load_state_dict(state["flow"])


def _build(dims: int) -> nn.Module:
    import zuko

    flow: nn.Module = zuko.flows.NSF(dims, transforms=TRANSFORMS, hidden_features=HIDDEN)
    return flow


def _train(flow: nn.Module, rows: Tensor) -> None:
    """Fit by maximum likelihood, and keep the weights that are best on a tenth of the rows."""
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    best, weights, since = math.inf, flow.state_dict(), 0
    for _ in range(EPOCHS):
        for part in torch.split(rows[torch.randperm(len(rows))], BATCH):
            optimizer.zero_grad()
            (-flow().log_prob(part).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(-flow().log_prob(held_out).mean())
        if loss < best:
            best, since = loss, 0
            weights = {name: value.clone() for name, value in flow.state_dict().items()}
        else:
            since += 1
            if since == PATIENCE:
                break
    flow.load_state_dict(weights)


def feature_flow_detectors() -> dict[str, type[FeatureFlow]]:
    """The flow on features.

    >>> list(feature_flow_detectors())
    ['FeatureFlow']
    """
    return {"FeatureFlow": FeatureFlow}
