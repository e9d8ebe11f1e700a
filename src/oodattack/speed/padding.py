"""Replace convolutions that do their own padding by plain ones."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodattack.speed.swap import swap


def absorb_padding(model: nn.Module, images: Tensor) -> None:
    """Replace each instance of a `Conv2d` subclass that only adds its own padding by a plain convolution.

    With some strides, TensorFlow's "same" padding is one pixel wider at the right and bottom than at the left and top,
    which torch's convolutions do not support. EfficientNets and others therefore copy the input of most convolutions
    into a larger, padded tensor, and its gradient back. For images of a fixed size, a plain convolution computes the
    same, if necessary with a row and a column of zeros prepended to the kernel.

    Args:
        model: any model with convolutions; modified in place.
        images: images of the model's input size, used to record the input and output size of each convolution.
    """
    subclasses = [
        module for module in model.modules() if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d
    ]
    if not subclasses:  # as in most networks
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
            case [(input_shape, output_shape)]:  # called once, with a single tensor
                try:
                    return plain_convolution(cast(nn.Conv2d, part), input_shape, output_shape)
                except Exception:  # noqa: BLE001 -- a subclass may differ from `Conv2d` in any way
                    return None
        return None

    swap(model, absorbed)


def plain_convolution(convolution: nn.Conv2d, input_shape: torch.Size, output_shape: torch.Size) -> nn.Conv2d | None:
    """Build a plain convolution equivalent to the given one for inputs of one shape (B, C, H, W), or return None.

    >>> class Same(nn.Conv2d):
    ...     def forward(self, x):
    ...         return super().forward(F.pad(x, (0, 1, 0, 1)))
    >>> with torch.no_grad():
    ...     plain = plain_convolution(
    ...         Same(3, 8, 3, stride=2), torch.Size([1, 3, 32, 32]), torch.Size([1, 8, 16, 16]))
    >>> plain.kernel_size, plain.padding
    ((4, 4), (1, 1))
    """
    # The total padding that the shapes imply; if it is odd, the bottom or right side gets the extra pixel.
    padding = [
        max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - inputs)
        for inputs, outputs, kernel, stride, dilation in zip(
            input_shape[2:],
            output_shape[2:],
            convolution.kernel_size,
            convolution.stride,
            convolution.dilation,
            strict=True,
        )
    ]
    top, left = (pixels % 2 for pixels in padding)
    weight, bias = F.pad(convolution.weight.detach(), (left, 0, top, 0)), convolution.bias
    plain: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # draws no random numbers
        nn.Conv2d,
        convolution.in_channels,
        convolution.out_channels,
        tuple(weight.shape[2:]),
        tuple(convolution.stride),
        ((padding[0] + top) // 2, (padding[1] + left) // 2),
        tuple(convolution.dilation),
        convolution.groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    plain.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias.detach()})
    plain.eval().requires_grad_(False)
    # Compare on small and large values of both signs: anything else that a subclass does may not show on the values
    # that occur in the network.
    noise = torch.randn(input_shape, generator=torch.Generator().manual_seed(0)).to(weight)
    equivalent = all(_close(plain(scale * noise), convolution(scale * noise)) for scale in (1, 100))
    return plain if equivalent else None


def _close(got: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree to 1e-5 of the largest expected value."""
    return got.shape == expected.shape and torch.allclose(
        got, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max())
    )
