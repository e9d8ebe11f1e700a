"""About the same function in 16 bits, for half the work: enough while an attack is far from its target."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from oodattack.speed.depthwise import Depthwise, is_depthwise
from oodattack.speed.half_gradient import HalfGradient
from oodattack.speed.prepared import Prepared
from oodattack.speed.probe import probe
from oodattack.speed.swap import swap
from oodattack.speed.timing import faster_in_16_bits, in_turn

GAIN = 1.08  # times as fast it must be: what is near to 1 would be so by chance
# Floating-point operations of an image. Samples do not all leave a twin at once, so that a batch falls into two: for
# networks of less work torch's calls, which are then twice as many, cost more than the twin saves.
LEAST_WORK = 2e8
SECONDS = 0.3  # of measuring, at least
LIKENESS = 0.5  # the least cosine between the two's latents, and gradients


def rough_twin(prepared: Prepared, images: Tensor, *, measured: bool = True) -> Prepared | None:
    """A copy of a prepared encoder that computes in bfloat16, if it is one of float32 and the copy is faster.

    Weights are in bfloat16 from the beginning: to cast them in every pass (autocast) takes longer than it saves.

    Args:
        prepared: the encoder.
        images: (2, 3, H, W) to try it on.
        measured: whether the copy must be faster than the encoder, which is measured on this machine, now.

    Returns:
        The copy, or None: where bfloat16 is not faster, the model refuses it, or makes something else of it.
    """
    numbers = {tensor.dtype for tensor in prepared.encoder.model.state_dict().values()}
    if {kind for kind in numbers if kind.is_floating_point or kind.is_complex} != {torch.float32}:
        return None
    try:
        if measured and not (_work(prepared, images) > LEAST_WORK and faster_in_16_bits(images.device)):
            return None
        twin = copy.deepcopy(prepared.encoder)
        if images.device.type == "cpu":
            swap(twin, lambda part: Depthwise(part) if is_depthwise(part) else None)
        rough = Prepared(twin, torch.bfloat16)
        for module in rough.modules():
            if isinstance(module, HalfGradient):
                module.half_weight = module.weight  # now the same: once is enough
        (z, slope), (z_rough, slope_rough) = probe(prepared, images), probe(rough, images)
        if not (_likeness(z, z_rough) > LIKENESS and _likeness(slope, slope_rough) > LIKENESS):
            return None
        if measured:
            exactly, roughly = in_turn(lambda: probe(prepared, images), lambda: probe(rough, images), seconds=SECONDS)
            if exactly < GAIN * roughly:
                return None
    except Exception:  # noqa: BLE001 -- a user's model may refuse bfloat16 in any way; it is only for speed
        return None
    return rough


def _work(f: nn.Module, images: Tensor) -> float:
    """Floating-point operations of a forward pass of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        f(images)
    return float(counter.get_total_flops()) / len(images)


def _likeness(one: Tensor, other: Tensor) -> float:
    """The cosine between two tensors."""
    return float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0))
