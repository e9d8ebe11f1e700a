"""Convolutions that pad for themselves, as plain ones."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.swap import swap


def absorb_padding(model: nn.Module, images: Tensor) -> None:
    """Put a plain convolution in the place of each subclass that is one, but for padding that it does for itself.

    TensorFlow's "same" padding is one pixel wider on the right and below where the stride asks for it, which torch's
    convolutions cannot do. So EfficientNets and others copy their images into a larger, padded one before most of
    their convolutions, and the gradient out of it. For images of one size a plain convolution does the same, where
    necessary with a row and a column of zeros before the kernel.

    Args:
        model: anything with convolutions inside; changed in place.
        images: of the size that it is for, to see what size each convolution is given, and gives.
    """
    subclasses = [
        module for module in model.modules() if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d
    ]
    if not subclasses:  # most networks: nothing to look for
        return
    seen: dict[nn.Module, list[tuple[torch.Size, torch.Size] | None]] = {}

    def after(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        calls = seen.setdefault(module, [])
        match args, output:
            case (Tensor(ndim=4) as x,), Tensor(ndim=4) as y if not kwargs:
                calls.append((x.shape, y.shape))
            case _:
                calls.append(None)

    hooks = [module.register_forward_hook(after, with_kwargs=True) for module in subclasses]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()

    def absorbed(part: nn.Module) -> nn.Module | None:
        match seen.get(part):
            case [(given, gives)]:  # called once, as a convolution is
                try:
                    return plain(cast(nn.Conv2d, part), given, gives)
                except Exception:  # noqa: BLE001 -- a subclass may differ in any way
                    return None
        return None

    swap(model, absorbed)


def plain(convolution: nn.Conv2d, given: torch.Size, gives: torch.Size) -> nn.Conv2d | None:
    """A plain convolution that does to inputs of one size (B, C, H, W) what the given one does, or None.

    >>> class Same(nn.Conv2d):
    ...     def forward(self, x):
    ...         return super().forward(F.pad(x, (0, 1, 0, 1)))
    >>> with torch.no_grad():
    ...     twin = plain(Same(3, 8, 3, stride=2), torch.Size([1, 3, 32, 32]), torch.Size([1, 8, 16, 16]))
    >>> twin.kernel_size, twin.padding
    ((4, 4), (1, 1))
    """
    # The padding that the sizes ask for; where it is odd, the second half is the wider.
    wanted = [
        max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - inputs)
        for inputs, outputs, kernel, stride, dilation in zip(
            given[2:], gives[2:], convolution.kernel_size, convolution.stride, convolution.dilation, strict=True
        )
    ]
    top, left = (pixels % 2 for pixels in wanted)
    weight, bias = F.pad(convolution.weight.detach(), (left, 0, top, 0)), convolution.bias
    twin: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # draws no random numbers
        nn.Conv2d,
        convolution.in_channels,
        convolution.out_channels,
        tuple(weight.shape[2:]),
        tuple(convolution.stride),
        ((wanted[0] + top) // 2, (wanted[1] + left) // 2),
        tuple(convolution.dilation),
        convolution.groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    twin.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias.detach()})
    twin.eval().requires_grad_(False)
    # On numbers of both signs, small and large: what a subclass does besides may not show on a network's own.
    noise = torch.randn(given, generator=torch.Generator().manual_seed(0)).to(weight)
    return twin if all(_alike(twin(scale * noise), convolution(scale * noise)) for scale in (1, 100)) else None


def _alike(got: Tensor, expected: Tensor) -> bool:
    """To 1e-5 of the largest number."""
    return got.shape == expected.shape and torch.allclose(
        got, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max())
    )
