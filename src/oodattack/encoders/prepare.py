"""The same function, computed faster: what an attack calls hundreds of times."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oodattack.encoders.encoder import Encoder

TOLERANCE = 1e-4  # of the largest latent


class Prepared(nn.Module):
    """An encoder's copy in channels-last memory; images may come in any memory format."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's z, (B, K), of images (B, 3, H, W)."""
        z: Tensor = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return z


def prepare(encoder: Encoder) -> nn.Module:
    """A copy of an encoder with batch norms folded into convolutions, frozen, in channels-last memory.

    The encoder itself is not touched: it stays the one that final figures are measured with. A copy whose latents
    differ by more than 1e-4 of the largest on random images is not used.

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
    try:
        twin = copy.deepcopy(encoder).requires_grad_(False)
        with torch.no_grad():
            _fold(twin, noise)
            prepared = Prepared(twin)
            expected, got = encoder(noise), prepared(noise)
    except Exception as error:  # noqa: BLE001 -- a user's model may refuse copies or layouts in any way
        _warn(f"{type(error).__name__}: {error}".splitlines()[0])
        return encoder
    if not torch.allclose(got, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())):
        _warn("its latents differ from the original's")
        return encoder
    return prepared


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


def _warn(reason: str) -> None:
    warnings.warn(f"the encoder is attacked as it is, without preparation for speed: {reason}", stacklevel=3)
