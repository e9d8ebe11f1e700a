"""Convolutions that pad for themselves, as plain ones."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def absorb_padding(model: nn.Module, images: Tensor) -> None:
    """Put a plain convolution in the place of each subclass that is one, but for padding that it does for itself.

    TensorFlow's "same" padding is one pixel wider on the right and below where the stride asks for it, which torch's
    convolutions cannot do. So EfficientNets and others copy their images into a larger, padded one before most of
    their convolutions, and the gradient out of it. For images of one size a plain convolution does the same, where
    necessary with a row and a column of zeros before the kernel.

    Args:
        model: anything with convolutions inside; changed in place.
        images: two or more of the size that it is for, to see what each convolution is given and gives.
    """
    seen: dict[nn.Module, list[tuple[Tensor, Tensor] | None]] = {}

    def after(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        calls = seen.setdefault(module, [])
        match inputs, output:
            case (Tensor(ndim=4) as x,), Tensor(ndim=4) as y:
                calls.append((x.clone(), y.clone()))  # others may work on them in place
            case _:
                calls.append(None)

    hooks = [
        module.register_forward_hook(after)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for parent in model.modules():
        for name, child in parent.named_children():
            match seen.get(child):
                case [(x, y)]:  # called once, as a convolution is
                    setattr(parent, name, plain(cast(nn.Conv2d, child), x, y) or child)


def plain(convolution: nn.Conv2d, x: Tensor, y: Tensor) -> nn.Conv2d | None:
    """A plain convolution that gives y for x (B, C, H, W), with the weights of the given one; None if there is none.

    >>> same = nn.Conv2d(3, 8, 3, stride=2)
    >>> x = torch.rand(2, 3, 32, 32)
    >>> twin = plain(same, x, same(F.pad(x, (0, 1, 0, 1))))
    >>> twin.kernel_size, twin.padding
    ((4, 4), (1, 1))
    """
    # What the size of y asks for; where it is odd, the second half is the wider.
    wanted = [
        max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - inputs)
        for inputs, outputs, kernel, stride, dilation in zip(
            x.shape[2:], y.shape[2:], convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
        )
    ]
    top, left = (pixels % 2 for pixels in wanted)
    twin = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        (convolution.kernel_size[0] + top, convolution.kernel_size[1] + left),
        _pair(convolution.stride),
        ((wanted[0] + top) // 2, (wanted[1] + left) // 2),
        _pair(convolution.dilation),
        convolution.groups,
        bias=convolution.bias is not None,
    ).to(convolution.weight)
    weight = F.pad(convolution.weight.detach(), (left, 0, top, 0))
    state = {"weight": weight} if convolution.bias is None else {"weight": weight, "bias": convolution.bias.detach()}
    twin.load_state_dict(state)
    twin.eval().requires_grad_(False)
    got, y = twin(x).detach(), y.detach()
    alike = got.shape == y.shape and torch.allclose(got, y, rtol=0, atol=1e-5 * float(y.abs().max()))
    return twin if alike else None


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Subclasses may give lists."""
    height, width = values
    return height, width
