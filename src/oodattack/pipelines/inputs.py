"""The inputs that each process of a run opens: the encoder, its fast copy, and the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from oodattack.core.checks import check_health
from oodattack.core.errors import InputError
from oodattack.core.gradient import Gradient, get_gradient
from oodattack.core.pixels import dequantize
from oodattack.encoders import Encoder, pick_device
from oodattack.engines import open_encoder, open_encoder_in_worker
from oodattack.images import ImageSource, digest, open_images
from oodattack.pipelines.plan import Plan, make_plan
from oodattack.settings.attack import AttackSettings
from oodattack.speed import prepare


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a run.

    Attributes:
        encoder: f, as loaded; reported figures are measured with it.
        plan: the samples of the run.
        prepared: fast copies of the encoder, by the arguments of `fast`.
    """

    encoder: Encoder
    plan: Plan
    prepared: dict[tuple[bool, bool], nn.Module] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device of the encoder."""
        return self.encoder.mean.device

    @property
    def gradient(self) -> Gradient:
        """The source of gradients: that of the settings, or SPSA behind a pipeline that has no gradient."""
        return get_gradient(self.plan.settings.gradient if self.encoder.has_gradient else "spsa")

    def fast(self, *, half: bool, rough: bool) -> nn.Module:
        """The encoder prepared for speed, once for each pair of arguments (see `oodattack.speed.prepare`)."""
        if (half, rough) not in self.prepared:
            self.prepared[half, rough] = prepare(self.encoder, half=half, rough=rough)
        return self.prepared[half, rough]

    def facts(self) -> dict[str, Any]:
        """What the header of the run records about its inputs: if it changes, so do the rows."""
        return {
            "encoder": self.encoder.digest(),
            "layer": self.encoder.layer,
            "input_size": list(self.encoder.input_size),
            "pipeline": self.encoder.pipeline and self.encoder.pipeline.name,
            "latent_dim": self.encoder.latent_dim,
            "parts": list(self.encoder.parts),
            "images": digest(self.plan.images, self.plan.chosen),
            "starts": [start.digest(len(self.plan.chosen)) for start in self.plan.starts],
        }

    def check(self) -> None:
        """Check that the encoder can be attacked and, in strict mode, that every image can be decoded.

        Raises:
            InputError: with the fault and the remedy.
        """
        if self.plan.settings.strict:
            self.plan.read_all()
        differentiated = self.gradient.passes > 0
        if self.plan.settings.grid_steps and not differentiated:
            raise InputError(
                "expected no grid_steps where gradients are estimated by SPSA (the pipeline has none), got"
                f" {self.plan.settings.grid_steps}; omit it"
            )
        start = self.plan.first_start()
        check_health(self.encoder, dequantize(torch.stack([start, start])).to(self.device), gradient=differentiated)


def open_inputs(settings: AttackSettings) -> Inputs:
    """Open the images and load the encoder.

    Raises:
        InputError: if something is missing or unreadable.
    """
    pick_device(settings.device)  # report an unusable device before opening images and encoder
    images = _open_images(settings)
    encoder = open_encoder(settings)
    return Inputs(encoder, make_plan(settings, images, encoder.input_size))


def open_in_worker(settings: AttackSettings, header: Mapping[str, Any]) -> Inputs:
    """Open the same inputs in a process other than the one that planned the run.

    Args:
        settings: the settings of the run.
        header: the header of the run; see `oodattack.engines.open_encoder_in_worker`.

    Raises:
        InputError: if something is missing or unreadable, or the encoder is a different one.
    """
    encoder = open_encoder_in_worker(settings, header)
    return Inputs(encoder, make_plan(settings, _open_images(settings), encoder.input_size))


def _open_images(settings: AttackSettings) -> ImageSource:
    return open_images(settings.images, data_root=settings.data_root, download=settings.download)
