"""Outliers that a GAN imagines (Lee et al. 2018): near the training images, and of no class to the classifier."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.networks import Discriminator, Generator


class Imagined:
    """A generator that learns beside the classifier; a `oodattack.training.losses.Draw`.

    Each call is one step of Algorithm 1 of Lee et al. 2018 but for the classifier's own: the discriminator tells real
    from generated, the generator fools it and is drawn to where the classifier is uncertain.

    Args:
        device: where it learns.
        weight: beta, of the classifier's uncertainty in the generator's loss.
        mean: of the normalisation, (3, 1, 1).
        std: of the normalisation.
    """

    def __init__(self, device: torch.device, weight: float, mean: Tensor, std: Tensor) -> None:
        self.generator, self.discriminator = Generator().to(device), Discriminator().to(device)
        betas = (0.5, 0.999)  # of DCGAN
        self.generator_step = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=betas)
        self.discriminator_step = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=betas)
        self.weight, self.mean, self.std = weight, mean, std

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """One step of both networks on normalised images (B, 3, 32, 32); returns as many generated ones, normalised."""
        real = images * self.std + self.mean
        noise = torch.randn(len(images), self.generator.noise, device=images.device)
        fake = self.generator(noise)
        truths = self.discriminator(real)
        lies = self.discriminator(fake.detach())
        loss = F.binary_cross_entropy_with_logits(truths, torch.ones_like(truths))
        loss = loss + F.binary_cross_entropy_with_logits(lies, torch.zeros_like(lies))
        self._step(self.discriminator_step, loss)
        normalised = (fake - self.mean) / self.std
        judged = self.discriminator(fake)
        # To the uniform distribution, as in the classifier's own loss; the classifier is not to learn from this.
        uncertainty = -F.log_softmax(model(normalised), dim=1).mean()
        fooled = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        self._step(self.generator_step, fooled + self.weight * uncertainty)
        model.zero_grad(set_to_none=True)
        outliers: Tensor = normalised.detach()
        return outliers

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {name: getattr(self, name).state_dict() for name in self._parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set what `state_dict` gave."""
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])

    _parts = ("generator", "discriminator", "generator_step", "discriminator_step")
