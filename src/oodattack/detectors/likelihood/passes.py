"""One evaluation of the models at a batch of images, of which each part is computed when it is first needed."""

from functools import cached_property

import torch
from torch import Tensor

from oodattack.detectors.likelihood.code_lengths import CodeLengths
from oodattack.detectors.likelihood.models import NO_BACKGROUND, ImageModels
from oodattack.detectors.subjects.passes import needs_gradient
from oodattack.detectors.subjects.subject import present
from oodattack.networks.glow import Encoding, Glow


class Pass:
    """What the models compute for images (B, 3, H, W) under one dequantisation noise, in nats.

    Args:
        models: the models.
        code_lengths: the lengths of encoded images.
        images: pixels in [0, 1].
        noise: u in [0, 1), of the shape of the images; None for 0.5.
    """

    def __init__(
        self, models: ImageModels, code_lengths: CodeLengths, images: Tensor, noise: Tensor | None = None
    ) -> None:
        self.models, self.code_lengths, self.images, self.noise = models, code_lengths, images, noise
        self.differentiable = needs_gradient(images)

    @property
    def log_p(self) -> Tensor:
        """Log-densities of the latents of each level of the first flow, (B, L)."""
        return self._encoding.log_p

    @property
    def log_dets(self) -> Tensor:
        """Log-determinants of each level of the first flow, (B, L)."""
        return self._encoding.log_dets

    @cached_property
    def members(self) -> Tensor:
        """Log-likelihoods under the other flows, (B, M - 1)."""
        return torch.stack([self._log_prob(flow) for flow in self.models.flows[1:]], dim=1)

    @cached_property
    def background(self) -> Tensor:
        """Log-likelihood under the background model, (B, 1)."""
        return self._log_prob(present(self.models.background, NO_BACKGROUND))[:, None]

    @cached_property
    def lengths(self) -> Tensor:
        """Lengths of the images under each lossless codec, in bytes, (B, C)."""
        return self.code_lengths(self.images)

    @cached_property
    def gradient(self) -> Tensor:
        """Logarithm of the L2 norm of the gradient of the first flow's log-likelihood, per unit of [0, 1], (B, 1)."""
        if self.differentiable:
            images, nats = self.images, self._encoding.log_prob.sum()
        else:
            with torch.inference_mode(False), torch.enable_grad():
                images = self.images.detach().clone().requires_grad_(True)
                nats = self.models.flow.log_prob(images, self.noise).sum()
        (gradient,) = torch.autograd.grad(nats, images, create_graph=self.differentiable)
        # Far from the data, the squares of gradients may exceed the range of float32.
        largest = gradient.detach().flatten(1).abs().amax(1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        log_norm: Tensor = (gradient.flatten(1) / largest).norm(dim=1, keepdim=True).log() + largest.log()
        return log_norm

    @cached_property
    def _encoding(self) -> Encoding:
        with torch.set_grad_enabled(self.differentiable):
            return self.models.flow.encode(self.images, self.noise)

    def _log_prob(self, flow: Glow) -> Tensor:
        with torch.set_grad_enabled(self.differentiable):
            return flow.log_prob(self.images, self.noise)
