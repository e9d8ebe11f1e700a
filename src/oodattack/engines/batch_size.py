"""How many samples at once: measured, not guessed."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodattack.core.checks import evaluation_mode
from oodattack.core.gradient import Gradient
from oodattack.engines.memory import out_of_memory

MOST = 256
# A CPU's memory gives no error when it runs short: the process is ended. 16 images of 224x224, 64 of 112x112.
MOST_PIXELS_ON_CPU = 16 * 224 * 224
SHARE = 0.03  # of the planned work may be spent on measuring
SECONDS = 1.0  # which may be spent in any case
NEARLY = 0.95  # of the best throughput is as good, and a smaller batch is kinder to memory and to who interrupts


def measure_batch_size(f: nn.Module, gradient: Gradient, image: Tensor, *, samples: int, steps: int) -> int:
    """The smallest batch whose samples a second are within 5 % of the best.

    Sizes are doubled from 1 until two doublings in a row bring nothing, memory or the time allowed ends, or the batch
    holds all samples.

    Args:
        f: the encoder as the attack uses it.
        gradient: the source of gradients that the attack uses.
        image: (1, 3, H, W) in [0, 1], on the encoder's device.
        samples: how many the run has.
        steps: how often each will be evaluated, at most.

    Returns:
        The size, a power of 2; 1 where not even that fits into memory, which the run will tell.

    >>> from oodattack.core.gradient import Autograd
    >>> measure_batch_size(nn.Flatten(), Autograd(), torch.rand(1, 3, 8, 8), samples=1, steps=10)
    1
    """
    speeds: dict[int, float] = {}
    size, begun = 1, time.perf_counter()
    most = MOST
    if image.device.type == "cpu":
        most = min(64, max(1, MOST_PIXELS_ON_CPU // (image.shape[2] * image.shape[3])))
    while size <= min(samples, most):
        try:
            with evaluation_mode(f):
                seconds = _seconds(f, gradient, image, size)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        speeds[size] = size / seconds
        best = max(speeds.values())
        no_gain = size >= 4 and max(speeds[size], speeds[size // 2]) < speeds[size // 4] / NEARLY
        spent, next_one = time.perf_counter() - begun, 3 * 2 * seconds
        if no_gain or spent + next_one > max(SECONDS, SHARE * samples * steps / best):
            break
        size *= 2
    return smallest_enough(speeds) if speeds else 1


def smallest_enough(speeds: Mapping[int, float]) -> int:
    """The smallest size whose speed is within 5 % of the best.

    >>> smallest_enough({1: 10.0, 2: 19.5, 4: 20.0, 8: 20.1})
    2
    """
    enough = NEARLY * max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= enough)


def _seconds(f: nn.Module, gradient: Gradient, image: Tensor, size: int) -> float:
    """Time of one evaluation of a batch: the better of two, after one that prepares kernels and memory."""
    images = image.repeat(size, 1, 1, 1)
    generators = [torch.Generator() for _ in range(size)]
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        latent, pullback = gradient(f, images, generators)
        pullback(latent).sum().item()  # waits for the device
        times.append(time.perf_counter() - begun)
    return min(times[1:])
