"""What is faster here: measured, not guessed."""

import functools
import math
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

ROUNDS = 2  # at least
GAIN = 1.2  # times as fast a convolution must be in 16 bits: what is near to 1 would be so by chance


@functools.cache
def faster_in_16_bits(device: torch.device) -> bool:
    """Whether a convolution is faster in bfloat16 here: where it is emulated, a network's pass may take minutes."""
    x = torch.ones(4, 64, 28, 28, device=device).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, device=device)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    try:
        seconds, half_seconds = in_turn(
            lambda: F.conv2d(x, weight).sum().item(), lambda: F.conv2d(half, half_weight).sum().item(), seconds=0.05
        )
    except (RuntimeError, TypeError):  # a device may not have the type
        return False
    return seconds > GAIN * half_seconds


def in_turn(*calls: Callable[[], object], seconds: float) -> list[float]:
    """The least seconds of each, called in turn, after a call of each to prepare kernels and memory.

    Args:
        calls: what to measure.
        seconds: to spend on it; each is called twice at least. Short calls are so measured more often, for their
            times are noisier.

    >>> len(in_turn(lambda: None, lambda: None, seconds=0))
    2
    """
    for call in calls:
        call()
    least = [math.inf for _ in calls]
    begun, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - begun < seconds:
        for i, call in enumerate(calls):
            before = time.perf_counter()
            call()
            least[i] = min(least[i], time.perf_counter() - before)
        rounds += 1
    return least
