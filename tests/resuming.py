"""That a training which is stopped and repeated ends with the same weights."""

import pytest
import torch
from safetensors.torch import load_file

from oodattack.engines import Progress
from oodattack.pipelines.train import train
from oodattack.settings.train import TrainSettings


class Stop(KeyboardInterrupt):
    pass


def stop_in_the_second_epoch(now: Progress) -> None:
    if now.name.startswith("epoch 2") and now.done == 2:
        raise Stop


def assert_resumes(whole: TrainSettings, interrupted: TrainSettings) -> None:
    """Run the same training twice, the second time stopped and repeated, and compare the weights."""
    train(whole)
    with pytest.raises(Stop):
        train(interrupted, on_progress=stop_in_the_second_epoch)
    assert not (interrupted.out / "model.safetensors").exists()
    train(interrupted)
    weights = [load_file(s.out / "model.safetensors") for s in (whole, interrupted)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
