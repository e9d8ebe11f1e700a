"""A classifier without its classification head."""

import torch
from torch import nn

from oodattack.core.errors import InputError
from oodattack.encoders.layers import find_head


def without_head(model: nn.Module, size: tuple[int, int], name: str) -> nn.Module:
    """The model with its last linear layer replaced by the identity, in place.

    Args:
        model: takes images (B, 3, H, W).
        size: (H, W) in pixels.
        name: of the model in errors.

    Raises:
        InputError: if it has no linear head.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> without_head(net, (2, 2), "mine")(torch.zeros(1, 3, 2, 2)).shape
    torch.Size([1, 12])
    """
    device = next(model.parameters(), torch.empty(0)).device
    model.eval()
    with torch.no_grad():
        head = find_head(model, torch.full((2, 3, *size), 0.5, device=device))
    if head is None:
        raise InputError(f"expected a model with a linear head to remove, got {name} without one: omit num_classes=0")
    model.set_submodule(head, nn.Identity())
    return model
