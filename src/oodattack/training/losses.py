"""What each method minimises."""

from collections.abc import Callable

import torch
from pytorch_ood.loss import OutlierExposureLoss
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.networks import Bottleneck

Draw = Callable[[nn.Module, Tensor], Tensor]
"""From the classifier at hand and a batch of normalised images to as many normalised outliers."""


def loss(model: nn.Module, images: Tensor, labels: Tensor, weight: float, draw: Draw | None) -> Tensor:
    """Cross-entropy of a batch, and what a method adds to it.

    - with outliers, ``weight`` times their cross-entropy to the uniform distribution (Hendrycks et al. 2019; with
      generated outliers it is, but for a constant, the confidence loss of Lee et al. 2018, eq. 1);
    - for a `Bottleneck`, ``weight`` times the mean rate in nats (Alemi et al. 2017, eq. 17).

    Args:
        model: from normalised images to logits.
        images: (B, 3, H, W), normalised.
        labels: (B,).
        weight: of what is added.
        draw: where outliers come from; None for none.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.rand(4, 3, 1, 1), torch.tensor([0, 1, 0, 1])
    >>> bool(loss(net, x, y, 0.5, lambda _model, images: images) > loss(net, x, y, 0.5, None))
    True
    """
    if isinstance(model, Bottleneck):
        z, rate = model.latent(images)
        return F.cross_entropy(model.linear(z), labels) + weight * rate.mean()
    if draw is None:
        return F.cross_entropy(model(images), labels)
    outliers = draw(model, images)
    logits = model(torch.cat([images, outliers]))
    targets = torch.cat([labels, torch.full((len(outliers),), -1, device=labels.device)])
    each = OutlierExposureLoss(alpha=weight, reduction="none")(logits, targets)
    total: Tensor = each[: len(images)].mean() + each[len(images) :].mean()
    return total
