"""The training loop of one network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from oodattack.core.errors import InputError
from oodattack.engines import OnStage
from oodattack.networks import MEAN, STD
from oodattack.settings.train import TrainSettings
from oodattack.storage.files import write_torch
from oodattack.training.data import Labelled, Outliers
from oodattack.training.gan_outliers import GanOutliers
from oodattack.training.losses import Draw, loss


class Session:
    """The training state of a network: model, optimizer, schedule and source of outliers.

    Args:
        settings: the training settings.
        model: the network to train.
        images: labelled training images.
        outliers: images that belong to no class, or None.
        accelerator: places the model and optimizer on the device.
        epochs: number of epochs in the learning rate schedule.
        rate: maximum learning rate.
        seed: determines, together with the epoch, all random numbers of the training.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: nn.Module,
        images: Labelled,
        outliers: Outliers | None,
        accelerator: Accelerator,
        *,
        epochs: int,
        rate: float,
        seed: int,
    ) -> None:
        self.settings, self.images, self.outliers, self.accelerator = settings, images, outliers, accelerator
        self.epochs, self.seed = epochs, seed
        self.history: list[float] = []
        device = accelerator.device
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = -(-len(images) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * steps + 1)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = schedule
        self.gan_outliers: GanOutliers | None = None
        if settings.method == "confidence":
            with seeded(seed, -2):
                self.gan_outliers = GanOutliers(device, settings.loss_weight, self.mean, self.std)

    def epoch(self, on_stage: OnStage) -> float:
        """Train for one epoch and return the mean loss.

        Raises:
            InputError: if the loss becomes non-finite.
        """
        number = len(self.history)
        what = f"epoch {number + 1} of {self.epochs}"
        with seeded(self.seed, number):
            loader = DataLoader(self.images, self.settings.batch_size, shuffle=True)
            draw = self._draw(number)
            self.model.train()
            total = 0.0
            for step, (images, labels) in enumerate(loader):
                x = self.normalise(images.to(self.accelerator.device))
                y = labels.to(self.accelerator.device)
                batch_loss = loss(self.model, x, y, self.settings.loss_weight, draw)
                if not bool(batch_loss.isfinite()):
                    raise diverged(what, step, self.settings.peak_rate)
                self.optimizer.zero_grad(set_to_none=True)
                self.accelerator.backward(batch_loss)
                self.accelerator.clip_grad_norm_(self.model.parameters(), 5.0)
                self.optimizer.step()
                self.schedule.step()
                total += float(batch_loss.detach())
                on_stage(f"{what}, loss {total / (step + 1):.3f}", step + 1, len(loader))
        self.model.eval()
        self.history.append(total / len(loader))
        return self.history[-1]

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in [0, 1] for the network."""
        return (images - self.mean) / self.std

    def _draw(self, number: int) -> Draw | None:
        if self.gan_outliers is not None:
            return self.gan_outliers
        if self.outliers is None:
            return None
        outliers = self.outliers
        generator = torch.Generator().manual_seed(hash((self.seed, number)) % 2**31)
        return lambda _model, images: self.normalise(outliers.draw(len(images), generator).to(images))

    @torch.no_grad()
    def accuracy(self, images: Labelled) -> float:
        """Compute the fraction of images that are classified correctly."""
        self.model.eval()
        correct = 0
        for x, y in DataLoader(images, self.settings.batch_size):
            logits = self.model(self.normalise(x.to(self.accelerator.device)))
            correct += int((logits.argmax(1).cpu() == y).sum())
        return correct / len(images)

    def save(self, file: Path) -> None:
        """Write the state needed to resume training, atomically."""
        state: dict[str, Any] = {
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            # Named "imagined" in existing checkpoints.
            "imagined": None if self.gan_outliers is None else self.gan_outliers.state_dict(),
        }
        write_torch(file, state)

    def load(self, file: Path) -> None:
        """Resume from a state that `save` wrote.

        Raises:
            InputError: if the file is damaged.
        """
        with reading(file):
            parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
            if self.gan_outliers is not None:
                parts["imagined"] = self.gan_outliers
            self.history = restore(file, self.accelerator.device, parts)["history"]


def restore(file: Path, device: torch.device, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state of a training, and load its parts, by name, into objects with ``load_state_dict``.

    No code in the file is executed.
    """
    state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


def diverged(what: str, step: int, rate: float) -> InputError:
    """The error of a training whose loss became non-finite, in a step counted from 0.

    >>> print(diverged("epoch 2 of 9", 4, 0.2))
    the loss became non-finite in epoch 2 of 9, step 5; earlier epochs are kept; retry with a --rate below 0.2 and a \
new --out
    """
    return InputError(
        f"the loss became non-finite in {what}, step {step + 1}; earlier epochs are kept; retry with a --rate below"
        f" {rate:g} and a new --out"
    )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Convert any exception raised while resuming from a file into an InputError that names the file.

    Raises:
        InputError: if the block raises any exception.
    """
    try:
        yield
    except Exception as error:
        raise InputError(
            f"cannot resume from {file}: {type(error).__name__}: {error}; delete it to start over"
        ) from error


@contextmanager
def seeded(seed: int, number: int) -> Iterator[None]:
    """Seed torch's random numbers within the block, and restore the caller's random state afterwards.

    >>> with seeded(0, 1):
    ...     a = torch.rand(1)
    >>> with seeded(0, 1):
    ...     bool(a == torch.rand(1))
    True
    """
    with torch.random.fork_rng():
        torch.manual_seed((seed * 1_000_003 + number + 1) % 2**63)
        yield
