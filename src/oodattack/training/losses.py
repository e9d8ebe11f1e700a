"""The training losses of the methods."""

from collections.abc import Callable

import torch
from pytorch_ood.loss import OutlierExposureLoss
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.networks import Bottleneck

Draw = Callable[[nn.Module, Tensor], Tensor]
"""Maps the current classifier and a batch of normalised images to the same number of normalised outliers."""


def loss(model: nn.Module, images: Tensor, labels: Tensor, weight: float, draw: Draw | None) -> Tensor:
    """Compute the cross-entropy of a batch plus the method's additional term.

    - With outliers: ``weight`` times their cross-entropy to the uniform distribution (Hendrycks et al. 2019; for
      generated outliers this equals, up to a constant, the confidence loss of Lee et al. 2018, eq. 1).
    - For a `Bottleneck`: ``weight`` times the mean rate in nats (Alemi et al. 2017, eq. 17).

    Args:
        model: maps normalised images to logits.
        images: (B, 3, H, W), normalised.
        labels: (B,).
        weight: weight of the additional term.
        draw: supplies outliers; None to train without outliers.

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
