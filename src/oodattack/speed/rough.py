"""The bfloat16 twin of a prepared encoder: accurate enough while an attack is far from its target, at half the cost."""

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
from oodattack.speed.timing import faster_in_16_bits, interleaved_times

MIN_SPEEDUP = 1.08  # of the twin; a ratio closer to 1 could be measurement noise
# Floating-point operations per image. Samples switch from the twin to the exact encoder at different times, which
# splits the batch and doubles the number of torch calls; for smaller networks that costs more than the twin saves.
MIN_FLOPS = 2e8
TIMING_SECONDS = 0.3  # minimum time spent on comparing the two
MIN_COSINE = 0.5  # similarity required between the latents of the two, and between their gradients


def rough_twin(prepared: Prepared, images: Tensor, *, measured: bool = True) -> Prepared | None:
    """Make a copy of a prepared float32 encoder that computes in bfloat16, if the copy is faster.

    Weights are converted to bfloat16 once: casting them in every pass (autocast) costs more than it saves.

    Args:
        prepared: the encoder.
        images: (2, 3, H, W), to test the copy on.
        measured: require the copy to be faster than the encoder when both are timed on this machine.

    Returns:
        The copy, or None if bfloat16 is not faster, the model does not support it, or the results differ too much.
    """
    dtypes = {tensor.dtype for tensor in prepared.encoder.model.state_dict().values()}
    if {dtype for dtype in dtypes if dtype.is_floating_point or dtype.is_complex} != {torch.float32}:
        return None
    try:
        if measured and not (_flops_per_image(prepared, images) > MIN_FLOPS and faster_in_16_bits(images.device)):
            return None
        twin = copy.deepcopy(prepared.encoder)
        if images.device.type == "cpu":
            swap(twin, lambda part: Depthwise(part) if is_depthwise(part) else None)
        rough = Prepared(twin, torch.bfloat16)
        for module in rough.modules():
            if isinstance(module, HalfGradient):
                module.half_weight = module.weight  # both are bfloat16 now and can share memory
        (z, gradient), (z_rough, gradient_rough) = probe(prepared, images), probe(rough, images)
        if not (_cosine(z, z_rough) > MIN_COSINE and _cosine(gradient, gradient_rough) > MIN_COSINE):
            return None
        if measured:
            exact_times, rough_times = interleaved_times(
                lambda: probe(prepared, images), lambda: probe(rough, images), seconds=TIMING_SECONDS
            )
            if min(exact_times) < MIN_SPEEDUP * min(rough_times):
                return None
    except Exception:  # noqa: BLE001 -- a user's model may reject bfloat16 with any exception; the twin is optional
        return None
    return rough


def _flops_per_image(f: nn.Module, images: Tensor) -> float:
    """Floating-point operations of a forward pass, per image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        f(images)
    return float(counter.get_total_flops()) / len(images)


def _cosine(one: Tensor, other: Tensor) -> float:
    """The cosine similarity of two tensors."""
    return float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0))
