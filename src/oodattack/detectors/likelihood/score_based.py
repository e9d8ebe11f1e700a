"""Detectors on a score network: the norms of scores, and reconstructions after one step of denoising."""

from typing import Any

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from oodattack.core.ball import wide
from oodattack.core.errors import InputError
from oodattack.detectors.base import Judged, Loader
from oodattack.detectors.likelihood.models import ImageModels
from oodattack.detectors.subjects import Subject
from oodattack.engines import compute_images
from oodattack.networks.score import ScoreNetwork

COMPONENTS = (1, 2, 4)  # of the mixture; the number with the lowest BIC is taken
NOISE_LEVELS = (0.05, 0.1, 0.2)  # of one-step reconstruction, in pixels of [0, 1]


class _OnScores(Judged):
    """A detector that reads numbers from a score network."""

    def __init__(self, models: ImageModels, subject: Subject) -> None:
        ImageModels(score_network=models.denoiser).check_size(subject.encoder.input_size)  # the flows are not read
        self.network: ScoreNetwork = models.denoiser.to(subject.device).eval().requires_grad_(False)

    def _collect(self, loader: Loader) -> Tensor:
        device = next(self.network.parameters()).device
        with torch.no_grad():
            rows = [compute_images(lambda part: self.reads(part).cpu(), images.to(device)) for images, _ in loader]
        return torch.cat(rows).double()


class MSMA(_OnScores):
    """Multiscale score matching analysis (Mahmood et al. 2021): how rare the norms of an image's scores are.

    It reads the logarithms of the norms of the scores at 10 noise levels from 1 to 0.01, without adding noise to the
    image. The score is their negative log-density under a Gaussian mixture fitted to training images.

    Raises:
        NotApplicableError: without a score network, or if it takes images of another size.
    """

    reading = "score norms"
    parts = (1,) * 10

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: (B, 10)."""
        norms: Tensor = self.network(images)
        return norms.clamp_min(torch.finfo(norms.dtype).tiny).log()

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        rows = self._collect(loader).numpy()
        counts = [count for count in COMPONENTS if 10 * count <= len(rows)]
        if not counts:
            raise InputError(f"expected at least 10 training images, got {len(rows)}; name more images")
        found = [GaussianMixture(count, reg_covar=1e-6, random_state=0).fit(rows) for count in counts]
        best = min(found, key=lambda mixture: float(mixture.bic(rows)))
        self.load_state_dict(
            {
                "weights": torch.from_numpy(best.weights_),
                "means": torch.from_numpy(best.means_),
                "factors": torch.from_numpy(best.precisions_cholesky_),
            }
        )

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        rows = wide(reads)
        weights, means, factors = (value.to(rows) for value in (self.weights, self.means, self.factors))
        whitened = torch.einsum("bkd,kde->bke", rows[:, None] - means, factors)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        size = rows.shape[1] * torch.log(torch.tensor(2 * torch.pi))
        logs = weights.log() + log_det - (whitened.square().sum(2) + size) / 2
        found: Tensor = -logs.logsumexp(1)
        return found

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"weights": self.weights, "means": self.means, "factors": self.factors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.weights, self.means, self.factors = state["weights"], state["means"], state["factors"]


class OneStep(_OnScores):
    """The error of a reconstruction after noise is added and removed in one step, at three noise levels.

    A reduction of DDPM-OOD (Graham et al. 2023) and LMD (Liu et al. 2023), which denoise in many steps. The noise is
    the same for all images. The score is the mean of the errors' z-scores among training images; the errors are mean
    squared differences between image and reconstruction, as logarithms.

    Raises:
        NotApplicableError: without a score network, or if it takes images of another size.
    """

    reading = "one-step reconstructions"
    parts = (1,) * len(NOISE_LEVELS)

    def __init__(self, models: ImageModels, subject: Subject) -> None:
        super().__init__(models, subject)
        shape = (len(NOISE_LEVELS), 1, 3, *self.network.input_size)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def reads(self, images: Tensor) -> Tensor:
        """See `Detector`: (B, 3)."""
        errors = []
        for sigma, noise in zip(NOISE_LEVELS, self.noise.to(images), strict=True):
            found = self.network.denoise(images + sigma * noise, torch.full((len(images),), sigma).to(images))
            errors.append((found - images).square().mean((1, 2, 3)))
        return torch.stack(errors, dim=1).clamp_min(torch.finfo(images.dtype).tiny).log()

    def fit(self, loader: Loader) -> None:
        """See `Detector`."""
        rows = self._collect(loader)
        if len(rows) < 2:
            raise InputError(f"expected at least 2 training images, got {len(rows)}; name more images")
        self.mean, self.std = rows.mean(0), rows.std(0).clamp_min(1e-6)

    def judge(self, reads: Tensor) -> Tensor:
        """See `Detector`."""
        rows = wide(reads)
        return ((rows - self.mean.to(rows)) / self.std.to(rows)).mean(1)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Detector`."""
        self.mean, self.std = state["mean"], state["std"]
