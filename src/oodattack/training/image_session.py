"""The training loop of a model of images: a flow or a score network."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from oodattack.engines import OnStage
from oodattack.settings.train import TrainSettings
from oodattack.storage.files import write_torch
from oodattack.training.objectives import ImageObjective
from oodattack.training.session import diverged, reading, restore, seeded
from oodattack.training.unlabelled import Unlabelled

FIRST_BATCH = 256  # images that initialise activation normalisation, as in the code of Kingma & Dhariwal (2018)
WARM_UP = 0.1  # share of the steps in which the learning rate rises
MAX_NORM = 50.0  # of the gradient
DECAY = 0.999  # of the moving average of the weights
PATIENCE = 10  # epochs without a better loss on held-out images before a training stops


class ImageSession:
    """The training state of a model of images.

    Adam minimises the loss; a moving average of the weights is evaluated on held-out images after every epoch, and the
    best average is kept.

    Args:
        settings: the training settings.
        model: the model to train.
        objective: the loss.
        images: the training images.
        held_out: images to evaluate on.
        accelerator: places the model and optimizer on the device.

    Attributes:
        history: by "train" and "held_out", the mean loss of each epoch.
        best: the weights after the epoch with the lowest loss on held-out images; empty before the first epoch.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: nn.Module,
        objective: ImageObjective,
        images: Unlabelled,
        held_out: Unlabelled,
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.objective, self.accelerator = settings, objective, accelerator
        self.images, self.held_out = images, held_out
        self.history: dict[str, list[float]] = {"train": [], "held_out": []}
        self.best: dict[str, Tensor] = {}
        model.to(accelerator.device)
        self._initialise(model)
        self.average = AveragedModel(model, avg_fn=_moving_average)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.peak_rate)
        steps = -(-len(images) // settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_share_of_rate, settings.epochs * steps))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    @torch.no_grad()
    def _initialise(self, model: nn.Module) -> None:
        """Initialise what depends on data, by a first pass in training mode."""
        count = min(FIRST_BATCH, len(self.images))
        with seeded(self.settings.seed, -1):
            first = torch.stack([self.images[i] for i in torch.randperm(len(self.images))[:count].tolist()])
            self.objective.loss(model.train(), first.to(self.accelerator.device))

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, with the lowest loss on held-out images."""
        losses = self.history["held_out"]
        return 1 + losses.index(min(losses))

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or none of the last `PATIENCE` was the best."""
        done = len(self.history["held_out"])
        return done >= self.settings.epochs or (done > 0 and done - self.best_epoch >= PATIENCE)

    def epoch(self, on_stage: OnStage) -> None:
        """Train for one epoch and evaluate on the held-out images.

        Raises:
            InputError: if a loss becomes non-finite.
        """
        number = len(self.history["train"])
        what = f"epoch {number + 1} of {self.settings.epochs}"
        self.model.train()
        with seeded(self.settings.seed, number):
            loader = DataLoader(self.images, self.settings.batch_size, shuffle=True)
            total = 0.0
            for step, images in enumerate(loader):
                with self.accelerator.autocast():
                    loss = self.objective.loss(self.model, images.to(self.accelerator.device)).mean()
                if not bool(loss.isfinite()):
                    raise diverged(what, step, self.settings.peak_rate)
                self.optimizer.zero_grad(set_to_none=True)
                self.accelerator.backward(loss)
                self.accelerator.clip_grad_norm_(self.model.parameters(), MAX_NORM)
                self.optimizer.step()
                self.schedule.step()
                self.average.update_parameters(self.model)
                total += len(images) * float(loss.detach())
                mean = total / min(len(self.images), (step + 1) * self.settings.batch_size)
                on_stage(f"{what}, loss {mean:.3f}", step + 1, len(loader))
        held_out = self.evaluate(self.held_out)
        self.history["train"].append(total / len(self.images))
        self.history["held_out"].append(held_out)
        if self.best_epoch == number + 1:
            self.best = deepcopy(self.trained.state_dict())

    @property
    def trained(self) -> nn.Module:
        """The model with the averaged weights of the last epoch."""
        return self.average.module

    @torch.no_grad()
    def evaluate(self, images: Unlabelled) -> float:
        """The mean loss of the averaged weights, with the same random numbers in every call.

        Raises:
            InputError: if it is non-finite.
        """
        self.average.eval()
        with seeded(0, 0):
            total = sum(
                float(self.objective.loss(self.trained, batch.to(self.accelerator.device)).sum())
                for batch in DataLoader(images, self.settings.batch_size)
            )
        mean = total / len(images)
        if not torch.tensor(mean).isfinite():
            raise diverged(f"the evaluation after epoch {len(self.history['train']) + 1}", 0, self.settings.peak_rate)
        return mean

    def save(self, file: Path) -> None:
        """Write the state needed to resume training, atomically."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        write_torch(file, {"history": self.history, "best": self.best, **parts})

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def load(self, file: Path) -> None:
        """Resume from a state that `save` wrote.

        Raises:
            InputError: if the file is damaged.
        """
        with reading(file):
            state = restore(file, self.accelerator.device, self._parts())
            self.history, self.best = state["history"], state["best"]


def _share_of_rate(steps: int, step: int) -> float:
    """The learning rate of a step, counted from 0, as a share of its peak: a linear warm-up, then half a cosine."""
    warm_up = max(WARM_UP * steps, 1.0)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1.0))) / 2


def _moving_average(average: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
    """An exponential moving average that forgets its first values faster, as TensorFlow's does."""
    decay = min(DECAY, (1 + int(count)) / (10 + int(count)))
    return average + (1 - decay) * (value - average)
