"""The same function, computed faster: what an attack calls hundreds of times."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oodattack.encoders.encoder import Encoder
from oodattack.encoders.padding import absorb_padding
from oodattack.encoders.stem import Stem, is_stem

LATENT_TOLERANCE = 1e-4  # of the largest latent
# Relative L2 error. Rounding puts a few of a ReLU network's millions of units on the other side of their kink, each
# with a jump in the gradient: 0.5 % was seen in nine networks. A wrong backward pass is so by far more.
GRADIENT_TOLERANCE = 5e-2


class Prepared(nn.Module):
    """An encoder's copy in channels-last memory; images may come in any memory format."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's z, (B, K), of images (B, 3, H, W)."""
        # Normalised in the caller's layout, for arithmetic on each pixel's three channels is slow; and the gradient in
        # that of the loop, for arithmetic on a mixture of layouts is slow, too.
        normalised = self.encoder.normalise(x)
        if normalised.requires_grad:
            normalised.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return self.encoder.latents(normalised.contiguous(memory_format=torch.channels_last))


def prepare(encoder: Encoder) -> nn.Module:
    """A copy of an encoder for speed: frozen, batch norms folded into convolutions, channels-last memory.

    On a CPU convolutions are brought to the form that its kernels are fast in, too. The encoder itself is not touched:
    it stays the one that final figures are measured with. A copy is not used whose latents differ by more than 1e-4 of
    the largest on random images, or whose gradient differs by more than 5 %.

    Args:
        encoder: in eval mode.

    Returns:
        The copy, or the encoder itself where it cannot be copied, run or trusted.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> f = prepare(Encoder(net, name="mine", input_size=(8, 8)))
    >>> [type(layer).__name__ for layer in f.encoder.model]
    ['Conv2d', 'Identity', 'Flatten', 'Linear']
    """
    noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
    on_cpu = noise.device.type == "cpu"
    for absorb in (True, False) if on_cpu else (False,):  # some models ask their convolutions for what plain ones lack
        try:
            twin = copy.deepcopy(encoder).requires_grad_(False)
            with torch.no_grad():
                if absorb:
                    absorb_padding(twin, noise)
                _fold(twin, noise)
                if on_cpu:
                    _suit_cpu(twin)
                prepared = Prepared(twin)
            fault = _difference(encoder, prepared, noise)
        except Exception as error:  # noqa: BLE001 -- a user's model may refuse copies or layouts in any way
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
        if fault is None:
            return prepared
    warnings.warn(f"the encoder is attacked as it is, without preparation for speed: {fault}", stacklevel=2)
    return encoder


def _difference(encoder: nn.Module, prepared: nn.Module, images: Tensor) -> str | None:
    """What two encoders do differently, or None."""
    with torch.no_grad():
        expected, got = encoder(images), prepared(images)
    if not torch.allclose(got, expected, rtol=0, atol=LATENT_TOLERANCE * float(expected.abs().max())):
        return "its latents differ from the original's"
    expected, got = _slope(encoder, images[:1]), _slope(prepared, images[:1])
    if not float((got - expected).norm()) <= GRADIENT_TOLERANCE * float(expected.norm()):
        return "its gradients differ from the original's"
    return None


def _slope(f: nn.Module, images: Tensor) -> Tensor:
    """The gradient of a random mixture of the latents; zero where f has none (then it is estimated elsewhere)."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        z = f(x)
        if not z.requires_grad:
            return torch.zeros_like(x)
        mixture = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
        (slope,) = torch.autograd.grad(z, x, mixture, materialize_grads=True)
    return slope


def _suit_cpu(encoder: Encoder) -> None:
    """Rewrite convolutions whose present form makes torch take a slow way on a CPU; the function stays the same."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            # Dilation means nothing to a 1x1 kernel, but only with it does torch call oneDNN on a single thread.
            module.dilation = (2, 2)
        for name, child in module.named_children():
            if is_stem(child):
                setattr(module, name, Stem(child))


def _fold(encoder: Encoder, images: Tensor) -> None:
    """Fold each batch norm that is given the very tensor that a convolution gave into that convolution.

    Whether that tensor, or that convolution, is used elsewhere too cannot be seen from here; the comparison with the
    original tells.
    """
    makers: dict[int, nn.Module] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    alive: list[Tensor] = []  # so that no identity is given out twice

    def after_convolution(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        makers[id(output)] = module
        alive.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maker = makers.get(id(inputs[0]))
        if isinstance(maker, nn.Conv2d) and type(module) is nn.BatchNorm2d:  # subclasses may do more than a norm
            pairs.append((maker, module))

    hooks = []
    try:
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                hooks.append(module.register_forward_hook(after_convolution))
            elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                hooks.append(module.register_forward_pre_hook(before_norm))
        encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    folded: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        folded[convolution] = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
        folded[norm] = nn.Identity()
    for parent in encoder.modules():
        for name, child in parent.named_children():
            if child in folded:
                setattr(parent, name, folded[child])
