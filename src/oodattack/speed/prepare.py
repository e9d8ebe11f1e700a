"""Prepare an encoder for attacks, which call it hundreds of times: the same function, computed faster."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oodattack.encoders.encoder import Encoder
from oodattack.encoders.layers import INPUT_OF
from oodattack.speed.half_gradient import HalfGradient, worth_halving
from oodattack.speed.padding import absorb_padding
from oodattack.speed.prepared import Prepared
from oodattack.speed.probe import probe
from oodattack.speed.rough import rough_twin
from oodattack.speed.stem import Stem, is_stem
from oodattack.speed.swap import swap
from oodattack.speed.timing import faster_in_16_bits

LATENT_TOLERANCE = 1e-4  # relative to the largest latent
# Relative L2 error. Rounding moves a few of a ReLU network's millions of units across their kink, and each makes the
# gradient jump: errors of 0.5 % were measured on nine networks, and 1 % with bfloat16. The error of a wrong backward
# pass is far larger.
GRADIENT_TOLERANCE = 5e-2


def prepare(encoder: Encoder, *, half: bool | None = None, rough: bool | None = None) -> Encoder | Prepared:
    """Make a fast copy of an encoder: frozen, batch norms folded into convolutions, channels-last memory format.

    On a CPU, convolutions are also rewritten in the form for which its kernels are fast. Where bfloat16 is faster, the
    gradient of convolutions (but not the latents) is computed in bfloat16, with an error of about one per cent
    (`HalfGradient`). The encoder itself is left unchanged and remains the one that computes final results. The copy is
    discarded if, on random images, its latents differ by more than 1e-4 of the largest one or its gradient by more than
    5 %.

    Args:
        encoder: the encoder, in eval mode.
        half: compute the gradient of convolutions in bfloat16, provided it stays within the 5 %; by default, if that
            is faster on the device.
        rough: give the copy a bfloat16 twin (`Prepared.rough_twin`), which `attack` evaluates for samples that are far
            from their target; by default, if the twin is measured to be faster on this machine.

    Returns:
        The copy, or the encoder itself if it cannot be copied or run, or if the copy deviates too much.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> f = prepare(Encoder(net, name="mine", input_size=(8, 8)))
    >>> [type(layer).__name__ for layer in f.encoder.model]
    ['Conv2d', 'Identity', 'Flatten', 'Linear']
    """
    noise = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.mean)
    on_cpu = noise.device.type == "cpu"
    if half is None:
        half = faster_in_16_bits(noise.device)
    # Fall back step by step: some models use features of their convolutions that plain ones lack, and very deep models
    # may be too inaccurate in bfloat16.
    for absorb, halve in dict.fromkeys([(on_cpu, half), (on_cpu, False), (False, half), (False, False)]):
        try:
            twin = copy.deepcopy(encoder).requires_grad_(False)
            with torch.no_grad():
                if absorb:
                    absorb_padding(twin, noise)
                _fold(twin, noise)
                if on_cpu:
                    _optimise_for_cpu(twin)
                if halve:
                    _halve_gradients(twin)
                prepared = Prepared(twin)
            fault = _difference(encoder, prepared, noise)
        except Exception as error:  # noqa: BLE001 -- a user's model may refuse copies or layouts in any way
            fault = f"{type(error).__name__}: {error}".splitlines()[0]
        if fault is None:
            if rough is not False:
                prepared.add_twin(rough_twin(prepared, noise, measured=rough is None))
            return prepared
    warnings.warn(f"the encoder is attacked unchanged, without preparation for speed: {fault}", stacklevel=2)
    return encoder


def _difference(encoder: nn.Module, prepared: nn.Module, images: Tensor) -> str | None:
    """Describe how the prepared copy deviates from the encoder, or return None if it is within tolerance."""
    (expected, expected_gradient), (got, gradient) = probe(encoder, images), probe(prepared, images)
    if not torch.allclose(got, expected, rtol=0, atol=LATENT_TOLERANCE * float(expected.abs().max())):
        return "its latents differ from the original's"
    if not float((gradient - expected_gradient).norm()) <= GRADIENT_TOLERANCE * float(expected_gradient.norm()):
        return "its gradients differ from the original's"
    return None


def _optimise_for_cpu(encoder: Encoder) -> None:
    """Rewrite convolutions for which torch takes a slow path on a CPU, without changing the function."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            # Dilation has no effect on a 1x1 kernel, but on a single thread torch calls oneDNN only if it is set.
            module.dilation = (2, 2)
    swap(encoder, lambda part: Stem(part) if is_stem(part) else None)


def _halve_gradients(encoder: Encoder) -> None:
    """Make convolutions with an expensive gradient compute it in bfloat16."""
    for module in encoder.modules():
        if isinstance(module, Stem) and module.weight.dtype == torch.float32:
            module.block_weight = module.block_weight.bfloat16()
    swap(encoder, lambda part: HalfGradient(part) if worth_halving(part) else None)


def _fold(encoder: Encoder, images: Tensor) -> None:
    """Fold each batch norm whose input is the output of a convolution into that convolution.

    Pairs whose intermediate tensor is part of z are skipped. Whether that tensor or the convolution is also used
    elsewhere cannot be determined here; the comparison with the original detects it.
    """
    producers: dict[int, nn.Module] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    alive: list[Tensor] = []  # keeps the tensors alive, so that no id is reused

    def after_convolution(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        producers[id(output)] = module
        alive.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        producer = producers.get(id(inputs[0]))
        if isinstance(producer, nn.Conv2d) and type(module) is nn.BatchNorm2d:  # subclasses may do more than normalise
            pairs.append((producer, module))

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
