"""Checks of f before the work starts; each failure is one sentence with its remedy.

Modelled on the health checks of AutoAttack (Croce & Hein 2020): a model that is random, in training mode, without a
gradient or fed pixels of the wrong range looks robust when it is not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from oodattack.core.errors import InputError


@contextmanager
def evaluation_mode(f: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put a module in eval mode with frozen parameters, and restore every flag at the end, even after an error.

    Freezing saves the time and memory of the parameters' gradients. A plain function is left as it is.

    >>> layer = nn.Dropout()
    >>> with evaluation_mode(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    if not isinstance(f, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in f.modules()]
    frozen = [parameter for parameter in f.parameters() if parameter.requires_grad]
    try:
        for module, _ in modes:
            module.training = False  # modules from torch.export do not support .eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad_(True)


def check_pixels(images: Tensor, name: str) -> None:
    """Raise unless ``images`` are floating-point (B, 3, H, W) with pixels in [0, 1].

    Raises:
        TypeError: if they are not a tensor of floating-point numbers.
        InputError: for another shape, 16-bit numbers, or pixels that are not finite or outside [0, 1].

    >>> check_pixels(torch.rand(2, 3, 8, 8), "start")
    >>> check_pixels(torch.full((2, 3, 8, 8), 255.0), "start")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: expected start with pixels in [0, 1], got 255 to 255; divide 8-bit pixels ...
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"expected {name} as a tensor (B, 3, H, W), got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"expected {name} as floating-point pixels in [0, 1], got {images.dtype};"
            " convert with oodattack.core.pixels.dequantize"
        )
    if torch.finfo(images.dtype).bits < 32:
        raise InputError(
            f"expected {name} in 32 or 64 bits, got {images.dtype}, in which short steps are lost; give {name}.float(),"
            " and convert images to 16 bits inside f: lambda x: f(x.half())"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(f"expected {name} of shape (B, 3, H, W), got {tuple(images.shape)}")
    if not bool(images.isfinite().all()):
        raise InputError(f"expected {name} with finite pixels, got NaN or infinity")
    low, high = (float(value) for value in images.detach().aminmax())
    if low < 0 or high > 1:
        raise InputError(
            f"expected {name} with pixels in [0, 1], got {low:.3g} to {high:.3g}; divide 8-bit pixels by 255, and"
            " leave normalisation to f (preprocessing is the first layer of the model)"
        )


def check_health(f: Callable[[Tensor], Tensor], start: Tensor, *, gradient: bool = True) -> None:
    """Check on the first sample whether f is deterministic, treats samples independently, is finite and has a gradient.

    Args:
        f: encoder, (B, 3, H, W) in [0, 1] -> (B, K) or (B,). A module is checked in eval mode.
        start: (B, 3, H, W) images; only the first is used, alone and in a batch of two.
        gradient: whether a gradient is needed (False for SPSA).

    Raises:
        InputError: in one sentence, what is wrong with f and how to fix it.

    >>> check_health(lambda x: x.mean((2, 3)), torch.rand(1, 3, 8, 8))
    >>> check_health(lambda x: x.mean((2, 3)) + torch.rand(1), torch.rand(1, 3, 8, 8))
    Traceback (most recent call last):
        ...
    oodattack.core.errors.InputError: f is random: the same image gave two different latents; ...
    """
    x = start[:1].detach().clone()  # a clone, because autograd rejects tensors made in inference mode
    with evaluation_mode(f), torch.no_grad():
        try:
            once, again = f(x), f(x)
            # The neighbour differs from x in every pixel.
            pair = _beside_another(f, x, once, needed=len(start) > 1)
        except Exception as error:
            raise InputError(
                f"f fails on one or two images of shape {tuple(x.shape[1:])}, {x.dtype}, on {x.device}:"
                f" {_first_line(error)}; check the input size, the batch size, the dtype and the device of the model"
            ) from error
        check_latents(once, 1)
        if not bool(once.isfinite().all()):
            raise InputError(
                "f gives NaN or infinity on the start image; check its weights, its normalisation and its dtype"
            )
        if not torch.equal(once, again):
            raise InputError(
                "f is random: the same image gave two different latents; switch off dropout, noise and random"
                " preprocessing inside f, or fix their seed"
            )
        if not torch.allclose(pair[:1], once, rtol=1e-2, atol=1e-3 * float(once.abs().max())):
            raise InputError(
                "f mixes the samples of a batch: an image's latent changed with its neighbour; put batch"
                " normalisation in eval mode, or use a model that treats each image independently"
            )
    if gradient:
        _check_gradient(f, x)


def check_latents(latent: object, count: int) -> None:
    """Raise unless f returned latents of ``count`` images.

    Raises:
        InputError: naming what f returned instead.

    >>> check_latents(torch.zeros(2, 5), 2)
    """
    if not isinstance(latent, Tensor) or latent.ndim not in (1, 2) or len(latent) != count or latent.numel() == 0:
        got = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
        raise InputError(
            f"expected f to map ({count}, 3, H, W) to ({count}, K) or ({count},), got {got}; flatten its output"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _beside_another(f: Callable[[Tensor], Tensor], x: Tensor, alone: Tensor, *, needed: bool) -> Tensor:
    """f(x) in a batch of two; an f that accepts one image at a time is good enough unless a batch is ``needed``."""
    try:
        return f(torch.cat([x, 1 - x.round()]))
    except Exception:
        if needed:
            raise
        return alone


def _check_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raise unless f has a finite, non-zero gradient at x or, in case f is flat at x, near it."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    with evaluation_mode(f), torch.enable_grad():
        for point in (x, 0.9 * x + 0.1 * noise):
            point.requires_grad_(True)
            try:
                latent = f(point)
                (g,) = torch.autograd.grad((latent * torch.linspace(1, 2, latent.numel()).to(latent)).sum(), point)
            except Exception as error:
                raise InputError(
                    "f gives no gradient with respect to its input (a detach, no_grad, numpy or rounding inside?);"
                    f" remove that, or estimate it with gradient='spsa', --gradient spsa ({_first_line(error)})"
                ) from error
            if not bool(g.isfinite().all()):
                raise InputError(
                    "f has a gradient of NaN or infinity at the start image; look for a square root or logarithm at"
                    " 0 inside f, or estimate the gradient with gradient='spsa' (--gradient spsa)"
                )
            if bool(g.any()):
                return
    raise InputError(
        "f has a gradient of zero at every point tried (rounding, a saturated or dead layer?); attack an earlier"
        " layer, or estimate the gradient with gradient='spsa' (--gradient spsa)"
    )
