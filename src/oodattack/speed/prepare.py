"""The same function, computed faster: what an attack calls hundreds of times."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oodattack.encoders.encoder import Encoder
from oodattack.encoders.layers import INPUT_OF
from oodattack.speed.half_gradient import HalfGradient, gains
from oodattack.speed.padding import absorb_padding
from oodattack.speed.prepared import Prepared
from oodattack.speed.probe import probe
from oodattack.speed.rough import rough_twin
from oodattack.speed.stem import Stem, is_stem
from oodattack.speed.swap import swap
from oodattack.speed.timing import faster_in_16_bits

LATENT_TOLERANCE = 1e-4  # of the largest latent
# Relative L2 error. Rounding puts a few of a ReLU network's millions of units on the other side of their kink, each
# with a jump in the gradient: 0.5 % was seen in nine networks, and 1 % with bfloat16. A wrong backward pass is so by
# far more.
GRADIENT_TOLERANCE = 5e-2


def prepare(encoder: Encoder, *, half: bool | None = None, rough: bool | None = None) -> Encoder | Prepared:
    """A copy of an encoder for speed: frozen, batch norms folded into convolutions, channels-last memory.

    On a CPU convolutions are brought to the form that its kernels are fast in, too. Where bfloat16 is faster their
    gradient is computed in that, right to a hundredth (`HalfGradient`); latents are not. The encoder itself is not
    touched: it stays the one that final figures are measured with. A copy is not used whose latents differ by more than
    1e-4 of the largest on random images, or whose gradient differs by more than 5 %.

    Args:
        encoder: in eval mode.
        half: whether convolutions compute their gradient in bfloat16, if it stays within the 5 %; by default where the
            device is faster with it.
        rough: whether the copy has a second one in 16 bits (`Prepared.rough_twin`), which `attack` uses for samples far
            from their target; by default where that is measured to be faster here.

    Returns:
        The copy, or the encoder itself where it cannot be copied, run or trusted.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> f = prepare(Encoder(net, name="mine", input_size=(8, 8)))
    >>> [type(layer).__name__ for layer in f.encoder.model]
    ['Conv2d', 'Identity', 'Flatten', 'Linear']
    """
    noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
    on_cpu = noise.device.type == "cpu"
    if half is None:
        half = faster_in_16_bits(noise.device)
    # Some models ask their convolutions for what plain ones lack; very deep ones may be too far off in 16 bits.
    for absorb, halve in dict.fromkeys([(on_cpu, half), (on_cpu, False), (False, half), (False, False)]):
        try:
            twin = copy.deepcopy(encoder).requires_grad_(False)
            with torch.no_grad():
                if absorb:
                    absorb_padding(twin, noise)
                _fold(twin, noise)
                if on_cpu:
                    _suit_cpu(twin)
                if halve:
                    _halve(twin)
                prepared = Prepared(twin)
            fault = _difference(encoder, prepared, noise)
        except Exception as error:  # noqa: BLE001 -- a user's model may refuse copies or layouts in any way
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
        if fault is None:
            if rough is not False:
                prepared.add_twin(rough_twin(prepared, noise, measured=rough is None))
            return prepared
    warnings.warn(f"the encoder is attacked as it is, without preparation for speed: {fault}", stacklevel=2)
    return encoder


def _difference(encoder: nn.Module, prepared: nn.Module, images: Tensor) -> str | None:
    """What two encoders do differently, or None."""
    (expected, expected_slope), (got, slope) = probe(encoder, images), probe(prepared, images)
    if not torch.allclose(got, expected, rtol=0, atol=LATENT_TOLERANCE * float(expected.abs().max())):
        return "its latents differ from the original's"
    if not float((slope - expected_slope).norm()) <= GRADIENT_TOLERANCE * float(expected_slope.norm()):
        return "its gradients differ from the original's"
    return None


def _suit_cpu(encoder: Encoder) -> None:
    """Rewrite convolutions whose present form makes torch take a slow way on a CPU; the function stays the same."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            # Dilation means nothing to a 1x1 kernel, but only with it does torch call oneDNN on a single thread.
            module.dilation = (2, 2)
    swap(encoder, lambda part: Stem(part) if is_stem(part) else None)


def _halve(encoder: Encoder) -> None:
    """Let convolutions whose gradient is much work compute it in 16 bits."""
    for module in encoder.modules():
        if isinstance(module, Stem) and module.weight.dtype == torch.float32:
            module.block_weight = module.block_weight.bfloat16()
    swap(encoder, lambda part: HalfGradient(part) if gains(part) else None)


def _fold(encoder: Encoder, images: Tensor) -> None:
    """Fold each batch norm that is given the very tensor that a convolution gave into that convolution.

    Not where z is that tensor, by the name of one of the two. Whether it, or that convolution, is used elsewhere too
    cannot be seen from here; the comparison with the original tells.
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
    names = {module: name for name, module in encoder.model.named_modules()}
    layers = encoder.layer.split("+")
    for convolution, norm in pairs:
        if names.get(convolution) in layers or f"{INPUT_OF}{names.get(norm)}" in layers:
            continue
        folded[convolution] = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
        folded[norm] = nn.Identity()
    swap(encoder, folded.get)
