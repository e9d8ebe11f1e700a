"""Measure which of several computations is faster on this machine."""

import functools
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

MIN_SPEEDUP = 1.2  # of a bfloat16 convolution; a ratio closer to 1 could be measurement noise
PROBE_SECONDS = 0.05


@functools.cache
def faster_in_16_bits(device: torch.device) -> bool:
    """Whether convolutions are faster in bfloat16 on a device.

    Where bfloat16 is emulated, a single pass of a network may take minutes.
    """
    x = torch.ones(4, 64, 28, 28, device=device).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3, device=device)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    try:
        full_times, half_times = interleaved_times(
            lambda: F.conv2d(x, weight).sum().item(),
            lambda: F.conv2d(half, half_weight).sum().item(),
            seconds=PROBE_SECONDS,
        )
    except (RuntimeError, TypeError):  # the device may not support bfloat16
        return False
    return min(full_times) > MIN_SPEEDUP * min(half_times)


def interleaved_times(*calls: Callable[[], object], seconds: float = 0, min_rounds: int = 2) -> tuple[list[float], ...]:
    """Time several functions by calling them in turn, after one warm-up call of each.

    Interleaving exposes all of them to the same load of the machine, so that their ratios can be trusted.

    Args:
        calls: the functions to time.
        seconds: how long to keep measuring. Short calls, whose times are noisier, are thus repeated more often.
        min_rounds: the minimum number of timed calls of each function.

    Returns:
        For each function, the duration of every timed call in seconds.

    >>> [len(times) for times in interleaved_times(lambda: None, lambda: None, min_rounds=3)]
    [3, 3]
    """
    for call in calls:
        call()
    times: tuple[list[float], ...] = tuple([] for _ in calls)
    started, rounds = time.perf_counter(), 0
    while rounds < min_rounds or time.perf_counter() - started < seconds:
        for durations, call in zip(times, calls, strict=True):
            before = time.perf_counter()
            call()
            durations.append(time.perf_counter() - before)
        rounds += 1
    return times
