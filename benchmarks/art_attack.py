"""ART's feature adversaries (Adversarial Robustness Toolbox), which support Linf balls only.

`FeatureAdversariesPyTorch` is run in the mode of projected gradient descent (``optimizer=None``). The other mode does
not stay in the ball: it clips to the ball *before* the optimizer's step, and only to [0, 1] after it. With ART 1.20.1,
delta = 0.05 and 35 steps of Adam, it returned an Linf distance of 0.063 at lr=0.01 and of 0.16 at lr=0.1
(`tests/test_benchmarks.py` repeats this measurement). The layer is passed to ART by name: with a number, ART leaves an
additional hook on the model in every step and slows down. ART also runs x_in through the encoder in every step, which
is counted as a forward pass.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def art_images(
    f: nn.Module,
    start: Tensor,
    x_in: Tensor,
    eps: float,
    *,
    max_iter: int,
    step_size: float | None = None,
    optimizer: type[torch.optim.Optimizer] | None = None,
    lr: float | None = None,
) -> Tensor:
    """Run ART's `FeatureAdversariesPyTorch`; with an optimizer, the images (B, 3, H, W) may leave the ball."""
    from art.attacks.evasion import FeatureAdversariesPyTorch
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        nn.Sequential(OrderedDict(latent=f)),
        loss=None,
        input_shape=tuple(start.shape[1:]),
        nb_classes=2,  # required, but not used by this attack
        clip_values=(0.0, 1.0),
        device_type="cpu" if start.device.type == "cpu" else "gpu",
    )
    found = FeatureAdversariesPyTorch(
        estimator,
        delta=float(eps),
        optimizer=optimizer,
        optimizer_kwargs=None if lr is None else {"lr": lr},
        layer="latent",
        max_iter=max_iter,
        batch_size=len(start),
        step_size=step_size,
        verbose=False,
    ).generate(start.cpu().numpy(), x_in.cpu().numpy())
    return torch.from_numpy(found).to(start)
